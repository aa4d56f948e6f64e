"""What the service is measured against, each as plain as its library allows: a FastAPI route, a Celery task,
nginx's sendfile.
"""

import os
import shutil
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import select

from expunge.store import db
from expunge.store.models import Job

QUEUE = "bare"


class Row(BaseModel):
    """The columns of a job that a client of the service sees too."""

    id: uuid.UUID
    kind: str
    status: str
    spec: dict[str, Any]
    attempt: int
    progress: dict[str, Any] | None
    verdict: dict[str, Any] | None
    error: dict[str, Any] | None
    labels: dict[str, str]
    version: int
    retried_from: uuid.UUID | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


COLUMNS = [getattr(Job, name) for name in Row.model_fields]


def create_app() -> FastAPI:
    """One route: one SELECT by primary key, over the service's own driver and pool.

    No key, no log, no counters, no safe headers.
    """
    app, engine = FastAPI(), db.engine(os.environ["EXPUNGE_DATABASE_URL"])

    @app.get("/jobs/{job_id}")
    def get_job(job_id: uuid.UUID) -> Row:
        with engine.connect() as connection:
            row = connection.execute(select(*COLUMNS).where(Job.id == job_id)).mappings().one()
            return Row.model_validate(dict(row))

    return app


REDIS = os.environ.get("EXPUNGE_REDIS_URL")
celery = Celery("bare", broker=REDIS, backend=REDIS, set_as_current=False)
celery.conf.task_default_queue = QUEUE


@celery.task
def pong() -> float:
    """When it was begun."""
    return time.time()


def nginx() -> str | None:
    """The program's path; None where it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def nginx_config(folder: Path, served: Path, port: int) -> Path:
    """A configuration that serves one directory by sendfile from one process, everything it writes in
    `folder`.
    """
    config = folder / "nginx.conf"
    config.write_text(
        f"""daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
{"user root;" if os.geteuid() == 0 else ""}
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;
  fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {served}; }}
}}
"""
    )
    return config

"""The Celery app: `celery -A expunge.worker.app worker`.

A message only wakes a worker and holds a job id; PostgreSQL is the queue of record.
"""

import logging
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import (
    celeryd_init,
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from expunge.store import db, logs, tracing
from expunge.store.queue_announcements import QUEUE
from expunge.store.settings import read
from expunge.worker import devices, shutdown, signing

if TYPE_CHECKING:
    from expunge.worker.keeper import Keeper

# Longer than any job, so that no message is delivered twice because its job is slow: recovery comes from the
# lease instead.
VISIBILITY = {"visibility_timeout": 43_200}

# Read by OpenMP when a run first loads torch: threads that spin while they wait take time from others on a
# shared host.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings = read(secret=False)  # who only sends messages needs no secret; a worker checks its own below
metrics_folder: str | None = None
keeper: "Keeper | None" = None
if settings.metrics_port is not None and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # Read by prometheus_client when it is first imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_folder = tempfile.mkdtemp(prefix="expunge-metrics-")
app = Celery("expunge", broker=settings.broker_url, include=["expunge.worker.task"])
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_ignore_result=True,
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,  # a claim counts attempts, so this cannot loop
    task_publish_retry=False,
    worker_prefetch_multiplier=1,
    worker_concurrency=1,
    worker_max_tasks_per_child=settings.tasks_per_process,
    # A short loss of Redis must not end a long job; the fence guards it
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        **VISIBILITY,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    },
    result_backend_transport_options=VISIBILITY,
    visibility_timeout=VISIBILITY["visibility_timeout"],
)


@celeryd_init.connect  # type: ignore[untyped-decorator]
def check_settings_and_choose_device(**_: Any) -> None:
    """Start neither without a proper secret, nor with a signing key that cannot be read."""
    try:
        signing.read_configured_key(read())
    except ValueError as error:
        raise SystemExit(str(error)) from None
    devices.choose(settings.device, os.environ)


@setup_logging.connect  # type: ignore[untyped-decorator]
def configure_logging(**_: Any) -> None:
    logs.configure(settings, "worker", lambda: sys.stdout)
    logging.captureWarnings(True)


@worker_init.connect  # type: ignore[untyped-decorator]
def start_keeper(**_: Any) -> None:
    global keeper
    from expunge.worker.keeper import Keeper

    keeper = Keeper(settings)
    keeper.start()


@worker_ready.connect  # type: ignore[untyped-decorator]
def serve_metrics_and_listen(sender: Any, **_: Any) -> None:
    from expunge.worker import metrics

    metrics.serve(settings)
    if keeper is not None:
        keeper.listen(sender)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def set_up_child(**_: Any) -> None:
    from expunge.worker import readiness

    db.discard_pools()
    readiness.note_process_replaced()
    tracing.configure("worker")


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def flush_traces(**_: Any) -> None:
    tracing.flush()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def clean_up(**_: Any) -> None:
    if keeper is not None:
        keeper.stop()
    if metrics_folder is not None:
        shutil.rmtree(metrics_folder, ignore_errors=True)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def request_shutdown(**_: Any) -> None:
    shutdown.request(settings.soft_shutdown_seconds)

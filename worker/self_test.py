"""`python -m expunge.worker.self_test [FOLDER]`: whether a worker can do its work here, as one line of JSON;
exit code 1 where it cannot.

FOLDER is the one for temporary files that the worker's processes have settled on: a new process would look
for another where that is gone.

A worker runs it in a process of its own, as a broken driver may hang or crash whoever asks it: at its start,
and while it is suspended.
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
from expunge.worker.runner import module_of

ROOM = 1 << 20  # bytes of /tmp that a test writes
LONGEST = 300  # characters of an error


@dataclass
class Found:
    """What the test found: the device, the models that can be run, what is wrong with the others, and why no
    job can be run at all.
    """

    device: str | None = None
    models: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)


def look(settings: Settings) -> Found:
    """Everything, so that one look at the log tells all that is to be mended."""
    found = Found()
    found.trouble += told("the folder for temporary files", write_scratch)
    found.trouble += told("the artifact store", lambda: reach_store(settings))
    for name, source in settings.models.items():
        if problem := wrong_with(source):
            found.problems[name] = problem
        else:
            found.models.append(name)
    if not found.models:
        found.trouble.append(
            "no model can be loaded: "
            + "; ".join(f"{name}: {problem}" for name, problem in found.problems.items())
        )

    def device() -> None:
        found.device = device_of(settings)

    found.trouble += told("the device", device)
    return found


def told(what: str, test: Callable[[], None]) -> Iterator[str]:
    try:
        test()
    except Exception as error:
        yield f"{what}: {type(error).__name__}: {str(error)[:LONGEST]}"


def write_scratch() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="expunge-test-") as folder,
        (Path(folder) / "scratch").open("wb") as file,
    ):
        file.write(bytes(ROOM))
        file.flush()
        os.fsync(file.fileno())


def reach_store(settings: Settings) -> None:
    try:
        blobs = deployment.open_store(settings)
    except SQLAlchemyError:  # the database is away: no fault of this host's, and claims need it too
        blobs = Blobs(settings.artifacts_url)
    blobs.ping()
    if blobs.folder is not None and not os.access(blobs.folder, os.W_OK):
        raise PermissionError(f"{blobs.folder} cannot be written to")


def wrong_with(source: str) -> str | None:
    """Why a model cannot be loaded here, as far as its files tell, without a path of this host; what the hub
    has to be asked for is taken on trust.
    """
    return sources.check("", source).problem


def device_of(settings: Settings) -> str | None:
    """The device of core's runs; another runner (EXPUNGE_RUNNER) may have a `self_test` of its own."""
    if settings.runner is None:
        return devices.compute(settings.device)
    test = getattr(module_of(settings.runner), "self_test", None)
    return None if test is None else str(test())


def main() -> int:
    settings = read(secret=False)
    devices.choose(settings.device, os.environ)
    tempfile.tempdir = next(iter(sys.argv[1:]), None)
    found = look(settings)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return 1 if found.trouble else 0


if __name__ == "__main__":
    raise SystemExit(main())

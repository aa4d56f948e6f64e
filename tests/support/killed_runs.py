"""A run that is killed by its own callback."""

from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.erasure import Delta, erase
from expunge.core.models import load_model
from expunge.core.progress import Progress
from expunge.core.specs import EraseSpec


class Killed(Exception):
    """What stands for SIGKILL in tests of core, which hands it through."""


def killed_when(condition: Callable[[Progress], bool]) -> Callable[[Progress], None]:
    """A callback that ends the run at the first report of which this is true."""

    def callback(progress: Progress) -> None:
        if condition(progress):
            raise Killed

    return callback


def killed_at(phase: str, step: int) -> Callable[[Progress], None]:
    return killed_when(lambda progress: (progress["phase"], progress["step"]) == (phase, step))


def resumed_to_the_same_bytes(
    source: Path, spec: EraseSpec, at: int, folder: Path, base: int | None = None
) -> Delta:
    """Erase undisturbed; again, killed at step `at`; and on from the checkpoint in `folder`, which is of step
    `base` (None: the same). The resumed delta.
    """
    undisturbed, checkpoints = erase(load_model(source), spec).serialise(), DirectoryCheckpoints(folder)
    with pytest.raises(Killed):
        erase(load_model(source), spec, checkpoints=checkpoints, callback=killed_at("erase", at))
    resumed = erase(load_model(source), spec, checkpoints=checkpoints)
    assert resumed.info["resumed_at"] == (at if base is None else base)
    assert resumed.serialise() == undisturbed
    return resumed

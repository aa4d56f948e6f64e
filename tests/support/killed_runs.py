"""A run that is killed by its own callback."""

from collections.abc import Callable

from expunge.core.progress import Progress


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

"""Out of memory: the run is repeated once with half the batch and gradient checkpointing, then fails with a
clear error.
"""

import copy
from collections.abc import Mapping
from typing import Any

from expunge.core.memory import free, out_of_memory

__all__ = ["free", "out_of_memory", "shrink"]

BATCHES = ("batch_size", "retain_batch")
UNCHANGED = ("evaluation",)  # draws fewer pictures at once by itself


def shrink(spec: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """(spec, changes): the spec with every batch halved and gradient checkpointing on, and what was changed,
    in words; None where there is nothing left to save.
    """
    smaller, changes = copy.deepcopy(dict(spec)), list[str]()
    parts = {name: value for name, value in smaller.items() if name not in UNCHANGED}
    for path, part in list_objects(parts):
        for name in BATCHES:
            batch = part.get(name)
            if isinstance(batch, int) and batch > 1:
                part[name] = batch // 2
                changes.append(f"{path}.{name} {batch // 2}")
        if part.get("gradient_checkpointing", True) is not True:
            part["gradient_checkpointing"] = True
            changes.append(f"{path}.gradient_checkpointing")
    return (smaller, ", ".join(changes)) if changes else None


def list_objects(spec: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every object in a spec, with its path."""
    inner = [(f"{path}.{key}".lstrip("."), value) for key, value in spec.items() if isinstance(value, dict)]
    nested = [list_objects(value, at) for at, value in inner]
    return inner + [found for each in nested for found in each]

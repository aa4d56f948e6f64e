"""Out of memory: the run is begun once more with half the batch and gradient checkpointing, then failed
clearly.
"""

import copy
from collections.abc import Mapping
from typing import Any

from expunge.core.memory import free, out_of_memory

__all__ = ["free", "out_of_memory", "smaller"]


BATCHES = ("batch_size", "retain_batch")
ALONE = ("evaluation",)  # draws fewer at once by itself


def smaller(spec: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The spec with every batch halved and activations computed again, and what was changed, in words;
    None when nothing is left to save.
    """
    made, changes = copy.deepcopy(dict(spec)), list[str]()
    for path, part in parts({name: value for name, value in made.items() if name not in ALONE}):
        for name in BATCHES:
            batch = part.get(name)
            if isinstance(batch, int) and batch > 1:
                part[name] = batch // 2
                changes.append(f"{path}.{name} {batch // 2}")
        if part.get("gradient_checkpointing", True) is not True:
            part["gradient_checkpointing"] = True
            changes.append(f"{path}.gradient_checkpointing")
    return (made, ", ".join(changes)) if changes else None


def parts(spec: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every object in a spec, with its path."""
    inner = [(f"{path}.{key}".lstrip("."), value) for key, value in spec.items() if isinstance(value, dict)]
    return inner + [found for at, value in inner for found in parts(value, at)]

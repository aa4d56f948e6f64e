"""One small job of every method of the registry and of every kind of edit, and the images that they learn
from.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from expunge.core.specs import METHODS

SMALL = {
    "steps": 4,
    "checkpoint_every": 2,
    "trajectories": 2,
    "sampling_steps": 3,
    "batch_size": 2,
    "candidates": 3,
    "retain_concepts": 2,
    "attack_steps": 1,
    "pictures": 2,
    "leakage_pictures": 0,
    "rounds": 2,
    "round_steps": 2,
    "search_steps": 2,
    "search_batch": 2,
    "anchors": 2,
    "drawn_steps": 1,
}
NAIVE = {
    "name": "naive",
    "steps": 4,
    "checkpoint_every": 2,
    "trajectories": 2,
    "sampling_steps": 3,
    "batch_size": 2,
}
IDS = [f"00000000-0000-0000-0000-00000000000{i}" for i in range(6)]
LEARNED = {
    "concepts": [{"name": "my dog", "images": IDS[:3], "target": "cat"}],
    "inversion": {"steps": 4, "batch_size": 2, "checkpoint_every": 2},
}
MASKED = LEARNED | {"concepts": [{"name": "my dog", "images": IDS[:3], "masks": IDS[3:]}]}
COUNTED = {"name": "uce", "debias": {"rounds": 2, "images": 4, "sampling_steps": 2, "tolerance": 0}}
SPREAD = {
    "concepts": [{"name": "dog", "attributes": ["wolf", "cat"], "shares": [0.25, 0.75]}],
    "method": COUNTED,
}


def small(method: type[BaseModel]) -> dict[str, Any]:
    """The method with little to do, whichever fields it has."""
    own = {name: value for name, value in SMALL.items() if name in method.model_fields}
    if "method" in method.model_fields:  # a method around another
        own["method"] = {"name": "esd", "trajectories": 2, "sampling_steps": 3, "batch_size": 2}
    return {"name": method.model_fields["name"].default, **own}


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: ("erase", {"concepts": ["church"], "method": small(method)}) for name, method in METHODS.items()
    },
    "hide": ("hide", {"concepts": ["church"], "method": NAIVE, "recovery": {"length": 3, "steps": 2}}),
    "edit": ("erase", {"concepts": [{"name": "church", "target": "mosque"}], "method": NAIVE}),
    "debias": ("erase", SPREAD),
    "visual edit": ("erase", LEARNED | {"method": NAIVE}),
    "mask edit": ("erase", MASKED | {"method": NAIVE}),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three images, and three masks that keep their left half."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    left = np.tile(np.where(np.arange(64) < 32, 255, 0).astype(np.uint8), (64, 1))
    pixels = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)] + [left] * 3
    for id_, each in zip(IDS, pixels, strict=True):
        Image.fromarray(each).save(folder / f"{id_}.png")
    return {id_: folder / f"{id_}.png" for id_ in IDS}

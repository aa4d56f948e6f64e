"""Attacks with little to do, and what they are made on."""

import numpy as np

from expunge.core.attacks.kept import Kept
from expunge.core.attacks.scene import Scene
from expunge.core.specs import Concept
from expunge.core.specs.attacks import ATTACKS

SMALL = {
    "noise_probe": {"etas": [1.0, 1.34]},
    "ring_a_bell": {"population": 6, "generations": 2},
    "mma": {"steps": 2, "candidates": 4, "top_k": 4, "tokens": 3},
    "relearn": {"judged_after": [1]},
    "paraphrase": {"texts": ["a chapel", "CHURCH"]},
}
"""The least that each attack can be asked for."""


def spec_of(name: str, **more):
    kind = ATTACKS[name]
    few = {"images": 2, "steps": 2, "batch_size": 2, "lessons": 2, "tokens": 2, "vectors": 2}
    given = {
        key: value for key, value in (few | SMALL.get(name, {}) | more).items() if key in kind.model_fields
    }
    return kind.model_validate(given)


def scene_of(model, concept="church", judge=None, kept=None, steps=3, seed=0) -> Scene:
    return Scene(
        model,
        Concept(name=concept, synonyms=["chapel"]),
        ["dog", "tree"],
        judge or bright,
        steps=steps,
        guidance=3.0,
        batch=4,
        seed=seed,
        kept=kept or Kept(None),
    )


def bright(images: np.ndarray) -> np.ndarray:
    return images.mean((1, 2, 3)) > 127


def never_seen(images: np.ndarray) -> np.ndarray:
    return np.full(len(images), False)

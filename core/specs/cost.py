"""What a job asks for in all: optimiser steps, and pictures drawn; field by field, so that an operator can
bound them and say what to lower.
"""

from typing import Any

from expunge.core.specs.evaluation import EvaluationSpec
from expunge.core.specs.hiding import HideSpec
from expunge.core.specs.inspection import InspectSpec
from expunge.core.specs.jobs import CombineSpec, EraseSpec, EvaluateSpec, JobSpec

MOST_IMAGES, ALL_IMAGES, LEAST_IMAGES = 24, 192, 6
RANKED = 8  # concepts of an inspection that are drawn


def erased_images(spec: EvaluationSpec, concepts: int) -> int:
    """Pictures of each erased concept: as asked, else so many that the judging of many concepts stays
    bounded.
    """
    return spec.erased_images or max(LEAST_IMAGES, min(MOST_IMAGES, ALL_IMAGES // max(1, concepts)))


def optimiser_steps(spec: JobSpec) -> dict[str, int]:
    """Steps of an optimiser by the field that asks for them, those of inner searches included: of the
    weights, of a learned word, of a key.
    """
    if not isinstance(spec, EraseSpec):
        return {}
    method, inner = spec.method, getattr(spec.method, "method", spec.method)
    found = {"method.steps": getattr(method, "steps", 0) * len(spec.concepts)}
    found["method.attack_steps"] = found["method.steps"] * getattr(method, "attack_steps", 0)
    found["method.search_every"] = found["method.steps"] // getattr(
        inner, "search_every", 1 + found["method.steps"]
    )
    found["inversion.steps"] = spec.inversion.steps * sum(
        1 + bool(c.masks) for c in spec.concepts if c.images
    )
    if isinstance(spec, HideSpec):
        found["recovery.steps"] = found["method.steps"] * spec.recovery.steps
    return found


def pictures(spec: JobSpec, judged: int | None = None) -> dict[str, int]:
    """Pictures by the field that asks for them: to train on, to count attributes, and to judge the base model
    and its sanitized one (or both with a key).

    `judged`: how many concepts the delta has erased, where the spec does not name all of them.
    """
    found: dict[str, int] = {}
    if isinstance(spec, EraseSpec):
        method, concepts = spec.method, len(spec.concepts)
        spread = sum(bool(c.attributes) for c in spec.concepts)
        debias = getattr(method, "debias", None)
        inner = getattr(method, "method", method)
        found["method.debias.images"] = debias.rounds * debias.images * spread if debias else 0
        found["method.pictures"] = getattr(inner, "pictures", 0) * concepts
        found["method.leakage_pictures"] = 2 * getattr(inner, "leakage_pictures", 0) * concepts
        found["method.trajectories"] = trajectories(inner, getattr(method, "steps", 0)) * sum(
            max(1, len(c.attributes)) for c in spec.concepts
        )
        found |= beside(method, inner, concepts)
    if isinstance(spec, EraseSpec | EvaluateSpec | CombineSpec) and spec.evaluation.enabled:
        asked, concepts = spec.evaluation, judged or len(getattr(spec, "concepts", ()))
        models = 3 if isinstance(spec, HideSpec) else 2
        named = asked.preserved_concepts
        kept = (asked.preserved_count if named is None else len(named)) + len(getattr(spec, "preserve", ()))
        found["evaluation.erased_images"] = models * erased_images(asked, concepts) * concepts
        found["evaluation.preserved_images"] = models * asked.preserved_images * kept
    if isinstance(spec, InspectSpec):
        found["pictures"] = 2 * RANKED * spec.pictures
        found["trajectories"] = spec.trajectories
    return found


def trajectories(method: Any, steps: int) -> int:
    """Whole trajectories that a concept's buffer draws; partial ones, drawn fresh at every step, count as one
    for each latent.
    """
    if not hasattr(method, "trajectories"):
        return 0
    if method.latents == "fresh":
        return int(steps * method.batch_size)
    every = method.refresh_every
    return int(method.trajectories * (1 + (steps // every if every else 0)))


def beside(method: Any, inner: Any, concepts: int) -> dict[str, int]:
    """Trajectories of other concepts that a buffer holds: an eighth of a concept's own for each candidate, a
    quarter for each that is retained.
    """
    if getattr(inner, "latents", "fresh") == "fresh":
        return {}
    rounds = 1 + (method.steps // inner.refresh_every if inner.refresh_every else 0)
    return {
        "method.candidates": (
            getattr(inner, "candidates", 0) * concepts * max(1, inner.trajectories // 8) * rounds
        ),
        "method.retain_concepts": (
            getattr(method, "retain_concepts", 0) * max(1, inner.trajectories // 4) * rounds
        ),
    }

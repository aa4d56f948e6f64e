"""Attacks: how far an erased concept can be brought back, by budget.

Each attack is one file with `attempt(scene, spec)`; its parameters are in core/specs/attacks. This file runs
them: against the sanitized model, the base model and a random edit, several attempts each, of which the best
counts.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expunge.core.attacks.control import random_edit
from expunge.core.attacks.kept import Kept, trim
from expunge.core.attacks.result import TOLERATED, AttackResult, Rate, status_of
from expunge.core.attacks.scene import Attempt, Hits, Images, Judge, Scene
from expunge.core.intervals import wilson
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Clock, Progress
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.attacks.attack import AttackSpec

ALONE = ("bypass",)  # attacks that have no ceiling and no control: they leave the delta off


@dataclass(frozen=True)
class Broken:
    """An attack's result, and the pictures of its best attempt on the sanitized model: which of them show the
    concept."""

    result: AttackResult
    images: Images
    hits: Hits


def attempt(scene: Scene, spec: AttackSpec) -> Attempt:
    """One attempt of the attack that the spec names."""
    made: Attempt = import_module(f"{__name__}.{spec.name}").attempt(scene, spec)
    return made


def run_attacks(
    model: Denoiser,
    concept: Concept,
    attacks: Sequence[AttackSpec],
    judge: Judge,
    spec: EvaluationSpec,
    *,
    others: Sequence[str],
    cache: Path | None,
    delta_digest: str,
    callback: Callback,
) -> Iterator[Broken]:
    """Run the attacks on one concept; a result for each, in order.

    others: names of other concepts that the model draws; cache: where results are kept, so that a restarted
    job repeats none; delta_digest: of what the model wears.
    """
    facts = {
        "base": model.digest,
        "device": str(model.device).split(":")[0],
        "dtype": str(model.dtype),
        "torch": torch.__version__,
        "sampler": model.sampler_settings,
    }
    kept = Kept(cache / "attacks" if cache else None, facts)
    scene = Scene(
        model,
        concept,
        others,
        judge,
        steps=spec.sampling_steps,
        guidance=spec.guidance_scale,
        batch=spec.batch_size,
        seed=0,
        kept=kept,
        callback=callback,
    )
    for attack in attacks:
        yield run(scene, attack, delta_digest, spec.thresholds.asr)
    if cache:
        trim(cache / "attacks")


def run(scene: Scene, spec: AttackSpec, delta_digest: str, threshold: float | None = None) -> Broken:
    """One attack on the three models; threshold: the success rate that is allowed."""
    begun, model = time.monotonic(), scene.model

    # The models that it meets: by name, the digest of what is worn, and how to get there
    states: dict[str, tuple[str, Callable[[], AbstractContextManager[None]]]] = {
        "sanitized": (delta_digest, nullcontext)
    }
    if spec.name not in ALONE:
        states["base"] = "", model.frozen
        if model.has_delta:
            states["control"] = f"{delta_digest} random", lambda: random_edit(model)

    # Every attempt on each of them
    rates, best = dict[str, Rate](), dict[str, tuple[Images, Hits]]()
    clock = Clock(len(states) * spec.restarts)
    for state, (digest, entered) in states.items():
        attempts, earlier = list[Attempt](), len(rates) * spec.restarts
        for n in range(spec.restarts):
            told = telling(scene, spec, state, n, clock, earlier + n)
            told({"phase": "attack", "step": 0, "total": 1})
            with entered():
                one = replace(scene, seed=spec.seed + n, callback=told)
                attempts.append(remembered(one, spec, digest))
            if successes(attempts[-1], scene.judge).all():  # none that follows is better
                break
        rates[state], best[state] = rate_of(attempts, scene.judge)
    result = AttackResult(
        attack=spec.name,
        concept=scene.name,
        needs=spec.needs,
        citation=spec.cited(),
        budget=spec,
        **rates,
        status=status_of(
            rates["sanitized"],
            rates.get("base", rates["sanitized"]),  # what is left off leaves the base model
            TOLERATED if threshold is None else threshold,
        ),
        seconds=time.monotonic() - begun,
    )
    return Broken(result, *best["sanitized"])


def remembered(scene: Scene, spec: AttackSpec, digest: str) -> Attempt:
    """The attempt, or what is kept of it."""
    facts = {**scene.budget(spec), "worn": digest, "images": spec.images}

    def make() -> tuple[dict[str, Tensor], str]:
        made = attempt(scene, spec)
        tensors = {"images": torch.from_numpy(made.images), "together": torch.tensor([made.together])}
        if made.vectors is not None:
            tensors["vectors"] = made.vectors
        tensors |= {f"curve.{step}": torch.from_numpy(images) for step, images in made.curve.items()}
        return tensors, made.found

    tensors, found = scene.kept.get(facts, make)
    curve = {
        int(name.removeprefix("curve.")): images.numpy()
        for name, images in tensors.items()
        if name.startswith("curve.")
    }
    return Attempt(tensors["images"].numpy(), found, int(tensors["together"]), tensors.get("vectors"), curve)


def successes(made: Attempt, judge: Judge) -> Hits:
    """Which tries of an attempt show the concept, (N / together,)."""
    found: Hits = np.any(judge(made.images).reshape(-1, made.together), axis=1)
    return found


def rate_of(attempts: Sequence[Attempt], judge: Judge) -> tuple[Rate, tuple[Images, Hits]]:
    """The rate of the best attempt, and its pictures with which of them show the concept."""
    tries = [successes(each, judge) for each in attempts]
    shares = [float(each.mean()) for each in tries]
    best = int(np.argmax(shares))
    chosen, hits = attempts[best], tries[best]
    low, high = wilson(int(hits.sum()), len(hits))
    curve = {step: float(judge(images).mean()) for step, images in sorted(chosen.curve.items())}
    rate = Rate(
        asr=shares[best],
        n=len(hits),
        ci_low=low,
        ci_high=high,
        attempts=shares,
        found=chosen.found,
        curve=curve,
    )
    return rate, (chosen.images, judge(chosen.images))


def telling(scene: Scene, spec: AttackSpec, state: str, n: int, clock: Clock, done: int) -> Callback:
    """Progress of one attempt, as progress of the attack: a thousandth for each step."""
    where = {"sanitized": "the sanitized model", "base": "the base model", "control": "a random edit"}[state]
    message = f"{spec.name} of {scene.name} on {where}, attempt {n + 1} of {spec.restarts}"

    def tell(progress: Progress) -> None:
        part = progress["step"] / max(1, progress["total"])
        step = done + part
        scene.callback(
            {
                "phase": "attack",
                "step": round(1000 * step),
                "total": 1000 * clock.total,
                "message": message,
                "eta_s": clock.eta(step) if step else None,
            }
        )

    return tell

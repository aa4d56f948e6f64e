"""Inspection: which concepts moved most from a model theta to a model theta' (Bui, seeds, Eq. 19).

max over c in C:  |eps'(c_e) - eps(c)|^2  +  lambda |eps'(c) - eps(c)|^2

The first term keeps away from what c_e has become, the second asks what moved; lambda weighs them. Every
concept is read on the same latents: of denoising trajectories of theta without a prompt.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor

from expunge.core.concepts import names_of
from expunge.core.concepts.embeddings import encode_once, phrase
from expunge.core.concepts.spaces import words_of
from expunge.core.memory import in_batches
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Clock, ignore
from expunge.core.sampling import Latents, denoise, draw_noise, seeded
from expunge.core.specs import Concept, InspectSpec
from expunge.core.specs.inflections import variant_of

WORDS = 16  # read together, on one latent each call
CONVENTIONS = [
    (
        "moved: |ε'(c) − ε(c)|², the mean over latents and their elements; away: |ε'(c_e) − ε(c)|² alike;"
        " score: away + λ moved (Eq. 19)."
    ),
    "What was changed (c_e), its synonyms and inflections are not ranked.",
    (
        "Latents are of trajectories of θ without a prompt, the same for every concept; prompts are 'a photo"
        " of a …', of a style 'a picture in … style'."
    ),
]


@dataclass(frozen=True)
class Side:
    """One of the two models: a model as it stands, or with its adapter off."""

    model: Denoiser
    base: bool = False

    @torch.no_grad()
    def predict(self, x: Latents, words: Sequence[str]) -> Tensor:
        """Noise predictions of every word on every latent, (n, S, 4, h, w)."""
        with self.model.frozen() if self.base else nullcontext():
            texts = encode_once(self.model, [phrase(self.model, w) for w in words])
            out = [
                self.model.predict(z.expand(len(words), *z.shape), t.expand(len(words)), texts)
                for z, t in zip(x.z, x.t, strict=True)
            ]
        return torch.stack(out, 1)


class Moved(BaseModel):
    """A concept and how far it moved."""

    concept: str
    score: float
    away: float
    moved: float


class Inspection(BaseModel):
    """What moved between two models; `report.json` is this."""

    format: str = "expunge-inspection/1"
    changed: str
    found: bool
    locality: float
    words: int
    ranking: list[Moved]
    most_moved: list[Moved]
    mean_moved: float
    conventions: list[str] = CONVENTIONS
    digests: dict[str, str] = {}


def terms(changed: Tensor, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 19's two terms for each concept, (n,) each. changed: eps'(c_e), (S, 4, h, w); old, new: eps(c),
    eps'(c), (n, S, 4, h, w).
    """
    return drift(changed, old), drift(old, new)


def drift(old: Tensor, new: Tensor) -> Tensor:
    """Mean squared difference of each row, (n,)."""
    return (new - old).square().flatten(1).mean(1)


def score(away: Tensor, moved: Tensor, locality: float) -> Tensor:
    """Eq. 19: what is maximised over c."""
    return away + locality * moved


def latents(before: Side, spec: InspectSpec) -> Latents:
    """S = trajectories x timesteps latents of theta without a prompt."""
    model, steps = before.model, spec.sampling_steps
    sampler, noise = model.sampler(steps), draw_noise(model, seeded(spec.seed), spec.trajectories)
    with model.frozen() if before.base else nullcontext():
        empty = model.unconditional().expand(spec.trajectories)
        states = denoise(model, noise, empty, steps, guidance=1, until=steps - 1)
    first = sampler.first  # at zero terminal SNR no prediction moves before it
    at = [first + math.floor(i * (steps - first) / spec.timesteps) for i in range(spec.timesteps)]
    t = sampler.timesteps[at].to(model.device)
    return Latents(torch.cat([states[k] for k in at]), t.repeat_interleave(spec.trajectories))


def read(
    words: Sequence[str], of: Callable[[Sequence[str]], Tensor], callback: Callback, message: str
) -> Tensor:
    """Numbers for each word, (n, k), in batches, with progress."""
    clock = Clock(len(words))

    def batch(start: int, end: int) -> Tensor:
        found = of(words[start:end])
        callback(
            {
                "phase": "inspect",
                "step": end,
                "total": len(words),
                "eta_s": clock.eta(end),
                "message": message,
            }
        )
        return found

    return torch.cat(in_batches(len(words), WORDS, batch))


def inspect(before: Side, after: Side, spec: InspectSpec, callback: Callback = ignore) -> Inspection:
    """Rank the words of the concept space by Eq. 19.

    Without spec.concept the space is read twice, first for what moved most.
    """
    # 1. The words, and the latents that all of them are read on.
    x = latents(before, spec)
    name = spec.concept.name if spec.concept else ""
    space = list(dict.fromkeys(words_of(before.model, spec.concept_space, name)))
    words = space[: spec.most_words]
    cost = len(words) * spec.trajectories * spec.timesteps * (2 if spec.concept else 3)
    bound = f"{len(words):,} of the space's {len(space):,} words: {cost:,} evaluations of the U-Net"
    callback({"phase": "inspect", "step": 0, "total": len(words), "message": bound})

    # 2. Eq. 19's two terms of each word; without a concept, what moved most is taken for it.
    if spec.concept is None:
        message = f"how far each of {len(words)} concepts moved"
        moved = read(words, lambda w: drift(before.predict(x, w), after.predict(x, w)), callback, message)
        changed = Concept(name=words[int(moved.argmax())])
        became = after.predict(x, [changed.name])[0]
        away = read(
            words,
            lambda w: drift(became, before.predict(x, w)),
            callback,
            f"and from what '{changed.name}' became",
        )
    else:
        changed, message = spec.concept, f"each of {len(words)} concepts against '{spec.concept.name}'"
        became = after.predict(x, [changed.name])[0]
        both = read(
            words,
            lambda w: torch.stack(terms(became, before.predict(x, w), after.predict(x, w)), 1),
            callback,
            message,
        )
        away, moved = both.unbind(1)

    # 3. The ranking, without the concept's own words.
    total = score(away, moved, spec.locality)
    is_changed = variant_of(names_of(changed))
    ranked = [i for i in total.argsort(descending=True, stable=True).tolist() if not is_changed(words[i])]
    most = moved.argsort(descending=True, stable=True).tolist()

    def row(i: int) -> Moved:
        return Moved(concept=words[i], score=float(total[i]), away=float(away[i]), moved=float(moved[i]))

    return Inspection(
        changed=changed.name,
        found=spec.concept is None,
        locality=spec.locality,
        words=len(words),
        ranking=[row(i) for i in ranked[: spec.top]],
        most_moved=[row(i) for i in most[: spec.top]],
        mean_moved=float(moved.mean()),
    )

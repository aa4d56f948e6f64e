"""UCE's debiasing (Gandikota et al., WACV 2024): v* = W (c + sum alpha_t a_t), the weights found by drawing
and counting.

Each round draws the concept with the model as edited so far, counts the attributes, and moves every alpha_t
by step_size (asked share - share found). a_t is the direction from the concept's prompt to the attribute's,
so that alpha_t = 1 alone is the attribute itself; where the alphas add up to nothing, as they do when every
picture shows one of the attributes, it is the paper's sum. v* is computed afresh from alpha in every layer
and round: the authors' code adds to one tensor in place, and its step size is unused. The alphas of the best
round are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.concepts import attribute_phrases, names_of
from expunge.core.erasure.closed_form import columns
from expunge.core.erasure.debias.counting import Counter
from expunge.core.models import Denoiser, Vocabulary
from expunge.core.progress import Callback, Clock
from expunge.core.specs import Concept, EraseSpec, UceSpec


@dataclass
class Blend:
    """One concept's columns (n, D), the directions to its attributes (P, n, D), and their weights alpha
    (P,).
    """

    counter: Counter
    columns: Tensor
    directions: Tensor
    alpha: Tensor

    def value(self) -> Tensor:
        """The columns whose keys and values become v*: c + sum alpha_t a_t."""
        return blended(self.columns, self.directions, self.alpha)


def blended(c: Tensor, directions: Tensor, alpha: Tensor) -> Tensor:
    """c (n, D) moved along directions (P, n, D) by alpha (P,); a new tensor."""
    return c + torch.einsum("p,pnd->nd", alpha.to(c), directions)


def blend(model: Denoiser, concept: Concept, spec: UceSpec, seed: int) -> Blend:
    """The concept under all its words, and each attribute in the same prompt templates."""

    def prompts(name: str) -> list[str]:
        return model.vocabulary.prompts(name) if spec.expand_prompts else [name]

    words = names_of(concept)
    c = columns(model, [p for word in words for p in prompts(word)], spec.tokens)
    phrases = attribute_phrases(concept, model.vocabulary)
    attributes = [columns(model, prompts(a) * len(words), spec.tokens) for a in phrases]
    directions = torch.stack([a - c for a in attributes])
    alpha = torch.zeros(len(attributes), dtype=torch.float64)
    return Blend(Counter(model, concept, spec.debias, seed), c, directions, alpha)


def attributes_of(request: EraseSpec, vocabulary: Vocabulary) -> list[str]:
    """Every attribute's phrase: what a concept is spread over must stay what it is."""
    return [phrase for c in request.concepts for phrase in attribute_phrases(c, vocabulary)]


def debias(
    model: Denoiser,
    request: EraseSpec,
    spec: UceSpec,
    put: Callable[[Tensor, Tensor], int],
    callback: Callback,
    checkpoints: Checkpoints | None,
) -> dict[str, Any]:
    """Rounds of edit, draw and count until every share is within the tolerance; `put` wears an edit of
    (columns, values).
    """
    settings, history = spec.debias, list[dict[str, Any]]()
    blends = [blend(model, c, spec, request.seed) for c in request.concepts if c.attributes]
    concept = torch.cat([b.columns for b in blends])
    best, kept = float("inf"), [b.alpha for b in blends]

    # Go on from a checkpoint of this very job, where there is one.
    identity, start = f"{model.digest} {request.model_dump_json()}", 0
    saved = checkpoints.load() if checkpoints else None
    if saved is not None and saved[1].get("identity") == identity:
        tensors, meta = saved
        start, history, best = meta["step"], meta["history"], meta["best"]
        kept = [tensors[f"best.{i}"] for i in range(len(blends))]
        for i, b in enumerate(blends):
            b.alpha = tensors[f"alpha.{i}"]

    clock = Clock(settings.rounds, start)
    for turn in range(start, settings.rounds):

        def report(message: str, turn: int = turn) -> None:
            progress = {"phase": "erase", "step": turn, "total": settings.rounds, "message": message}
            callback({**progress, "eta_s": clock.eta(turn)})  # type: ignore[typeddict-item]

        # Edit, draw, count; keep the best alphas so far, and move each by what its attribute lacks.
        put(concept, torch.cat([b.value() for b in blends]))
        counts = [b.counter.lacks(turn, report) for b in blends]
        off = max(distance for _, distance in counts)
        if off < best:
            best, kept = off, [b.alpha for b in blends]
        for b, (lacks, _) in zip(blends, counts, strict=True):
            b.alpha = b.alpha + settings.step_size * lacks
        done = turn + 1
        history.append({"step": done, "loss": off, "target": None})
        callback(
            {
                "phase": "erase",
                "step": done,
                "total": settings.rounds,
                "loss": off,
                "eta_s": clock.eta(done),
            }
        )
        if max(float(lacks.abs().max()) for lacks, _ in counts) <= settings.tolerance:
            break
        if checkpoints and done < settings.rounds:
            state = {f"alpha.{i}": b.alpha for i, b in enumerate(blends)}
            state |= {f"best.{i}": alpha for i, alpha in enumerate(kept)}
            meta = {"step": done, "identity": identity, "history": history, "best": best}
            checkpoints.save(done, state, meta)

    # The best round's edit is the one that stays.
    for b, alpha in zip(blends, kept, strict=True):
        b.alpha = alpha
    rank = put(concept, torch.cat([b.value() for b in blends]))
    alphas = {}
    for b in blends:
        debiased = b.counter.concept
        alphas[debiased.name] = dict(zip(debiased.attributes, b.alpha.tolist(), strict=True))
    return {"rank": rank, "history": history, "alphas": alphas, "resumed_at": start}

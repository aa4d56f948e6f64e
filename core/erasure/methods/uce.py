"""UCE, Unified Concept Editing (Gandikota et al., WACV 2024), in closed form and delivered as its exact
LoRA.
"""

import time
from typing import Any

import torch
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.concepts import excluding, names_of, resolve_target
from expunge.core.erasure.closed_form import columns, condensed, edited_layers, factors, wear
from expunge.core.erasure.debias.blend import attributes_of, debias
from expunge.core.erasure.delta import Delta
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, ignore
from expunge.core.specs import EraseSpec, PromptEditSpec, UceSpec


def prompts_of(
    model: Denoiser, request: EraseSpec, spec: PromptEditSpec
) -> tuple[list[str], list[str], list[str]]:
    """Prompts to edit, what each of them becomes, and prompts to hold."""

    vocabulary = model.vocabulary

    def expand(name: str) -> list[str]:
        return vocabulary.prompts(name) if spec.expand_prompts else [name]

    sources, targets = list[str](), list[str]()
    for concept in request.concepts:
        if concept.attributes:
            continue  # uce_debias.py
        target = resolve_target(model, concept, request.concepts, spec.guide)
        for word in names_of(concept):
            sources += expand(word)
            targets += vocabulary.replaced(word, target) if spec.expand_prompts else [target]
    held = held_names(model, request, spec)
    return sources, targets, [p for name in held for p in expand(name)]


def held_names(model: Denoiser, request: EraseSpec, spec: PromptEditSpec) -> list[str]:
    """What the edit holds: what is preserved, attributes, and the vocabulary where the spec says so."""
    vocabulary = model.vocabulary
    styles = any(vocabulary.style(c.name) is not None for c in request.concepts)
    hold = styles if spec.hold_vocabulary is None else spec.hold_vocabulary
    rest: list[str] = []
    if hold:
        known = [*vocabulary.concepts, *vocabulary.styles]
        rest = excluding(model, known, [*request.concepts, *model.erased])
    named = (*spec.preserve, *request.preserve, *attributes_of(request, vocabulary), *rest)
    return list(dict.fromkeys(named))


def seen_names(model: Denoiser, request: EraseSpec, spec: PromptEditSpec) -> list[str]:
    """What the edit holds, and what the concepts become."""
    edited = [c for c in request.concepts if not c.attributes]
    targets = [resolve_target(model, c, request.concepts, spec.guide) for c in edited]
    return list(dict.fromkeys(n for n in [*held_names(model, request, spec), *targets] if n))


def edit(
    model: Denoiser,
    request: EraseSpec,
    spec: UceSpec,
    callback: Callback,
    checkpoints: Checkpoints | None = None,
) -> Delta:
    """Edit every attn2.to_k and to_v at once; seconds on a CPU.

    Concepts with attributes are drawn and counted, round after round.
    """
    begun, evaluations = time.monotonic(), model.evaluations

    # Columns to edit, what they become, and columns to hold.
    sources, targets, preserved = prompts_of(model, request, spec)
    message = f"{len(sources)} prompts to edit, {len(preserved)} to hold"
    callback({"phase": "encode", "step": 0, "total": 1, "message": message})
    none = model.encode([""]).states.flatten(0, 1)[:0]
    e = columns(model, sources, spec.tokens) if sources else none
    g = columns(model, targets, spec.tokens) if targets else none
    p = condensed(model, preserved, spec.tokens) if preserved else none
    weights = {n: model.weight(n).double() for n in edited_layers(model)}
    spread = any(c.attributes for c in request.concepts)

    def put(concept: Tensor, value: Tensor) -> int:
        """Wear the edit of columns e and of these besides; the rank."""
        both, values = torch.cat([e, concept]), torch.cat([g, value])
        difference, down = factors(both, values, p, spec.ridge, spec.erase_scale, spec.preserve_scale)
        layers = {n: (w @ difference, down) for n, w in weights.items()}
        return wear(model, layers, ignore if spread else callback)

    # One edit; where concepts have attributes, one a round, as the counts ask for it.
    info: dict[str, Any] = {"columns": int(e.shape[0])}
    if spread:
        info |= debias(model, request, spec, put, callback, checkpoints)
    else:
        info["rank"] = put(none, none)
    return Delta.of(
        model,
        **info,
        residual=0.0,
        held=seen_names(model, request, spec),
        unet_evaluations=model.evaluations - evaluations,
        seconds=time.monotonic() - begun,
    )

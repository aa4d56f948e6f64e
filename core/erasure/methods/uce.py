"""UCE, Unified Concept Editing (Gandikota et al., WACV 2024), in closed form and delivered as its exact
LoRA.
"""

import time
from typing import Any

import torch
from torch import Tensor

from expunge.core.concepts import anchor, forbidden, unnamed
from expunge.core.erasure.closed_form import columns, condensed, factors, wear
from expunge.core.erasure.debias.blend import attributes_of, debias
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.layers import target_modules
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Checkpoints, ignore
from expunge.core.specs import EraseSpec, UceSpec, UnifiedEditSpec


def prompts_of(
    model: Denoiser, request: EraseSpec, spec: UnifiedEditSpec
) -> tuple[list[str], list[str], list[str]]:
    """Prompts to edit, what each of them becomes, and prompts to hold."""

    vocabulary = model.vocabulary

    def expand(name: str) -> list[str]:
        return vocabulary.prompts(name) if spec.expand_prompts else [name]

    sources, targets = list[str](), list[str]()
    for concept in request.concepts:
        if concept.attributes:
            continue  # uce_debias.py
        guide = anchor(model, concept, request.concepts, spec.guide)
        for word in forbidden(concept):
            sources += expand(word)
            targets += vocabulary.replaced(word, guide) if spec.expand_prompts else [guide]
    styles = any(vocabulary.style(c.name) is not None for c in request.concepts)
    hold = styles if spec.hold_vocabulary is None else spec.hold_vocabulary
    rest = (
        unnamed(model, [*vocabulary.concepts, *vocabulary.styles], [*request.concepts, *model.erased])
        if hold
        else []
    )
    held = dict.fromkeys((*spec.preserve, *request.preserve, *attributes_of(request, vocabulary), *rest))
    return sources, targets, [p for name in held for p in expand(name)]


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
    sources, targets, preserved = prompts_of(model, request, spec)
    callback(
        {
            "phase": "encode",
            "step": 0,
            "total": 1,
            "message": f"{len(sources)} prompts to edit, {len(preserved)} to hold",
        }
    )
    none = model.encode([""]).flatten(0, 1)[:0]
    e, g = (columns(model, prompts, spec.tokens) if prompts else none for prompts in (sources, targets))
    p = condensed(model, preserved, spec.tokens) if preserved else none
    names = target_modules(model.unet, "xattn_strict")
    spread = any(c.attributes for c in request.concepts)
    weights = {n: model.unet.get_submodule(n).weight.detach().double() for n in names}

    def put(concept: Tensor, value: Tensor) -> int:
        """Wear the edit of columns e and of these besides; the rank."""
        difference, down = factors(
            torch.cat([e, concept]),
            torch.cat([g, value]),
            p,
            spec.ridge,
            spec.erase_scale,
            spec.preserve_scale,
        )
        return wear(
            model, {n: (w @ difference, down) for n, w in weights.items()}, ignore if spread else callback
        )

    info: dict[str, Any] = {"columns": int(e.shape[0])}
    if spread:
        info |= debias(model, request, spec, put, callback, checkpoints)
    else:
        info["rank"] = put(none, none)
    return Delta.of(
        model,
        **info,
        residual=0.0,
        unet_evaluations=model.evaluations - evaluations,
        seconds=time.monotonic() - begun,
    )

"""UCE, Unified Concept Editing (Gandikota et al., WACV 2024), in closed form and delivered as its exact LoRA."""

import time

from core.concepts import forbidden
from core.erasure.closed_form import columns, factors, wear
from core.erasure.delta import Delta
from core.erasure.layers import target_modules
from core.models import StableDiffusion
from core.models.vocabulary import article
from core.progress import Callback
from core.specs import EraseSpec, UceSpec, UnifiedEditSpec


def prompts_of(model: StableDiffusion, request: EraseSpec, spec: UnifiedEditSpec) -> tuple[list[str], list[str], list[str]]:
    """Prompts to edit, what each of them becomes, and prompts to hold."""

    def expand(name: str) -> list[str]:
        return model.vocabulary.prompts(name) if spec.expand_prompts else [name]

    sources, targets = list[str](), list[str]()
    for concept in request.concepts:
        guide = concept.target if concept.target is not None else spec.guide
        for word in forbidden(concept):
            prompts = expand(word)
            sources += prompts
            targets += [article(p.replace(word, guide)).strip() for p in prompts] if guide else [""] * len(prompts)
    return sources, targets, [p for name in (*spec.preserve, *request.preserve) for p in expand(name)]


def edit(model: StableDiffusion, request: EraseSpec, spec: UceSpec, callback: Callback) -> Delta:
    """Edit every attn2.to_k and to_v at once; seconds on a CPU."""
    begun, evaluations = time.monotonic(), model.evaluations
    sources, targets, preserved = prompts_of(model, request, spec)
    callback({"phase": "encode", "step": 0, "total": 1, "message": f"{len(sources)} prompts to edit, {len(preserved)} to hold"})
    e, g = columns(model, sources, spec.tokens), columns(model, targets, spec.tokens)
    p = columns(model, preserved, spec.tokens) if preserved else e.new_zeros(0, e.shape[1])
    difference, down = factors(e, g, p, spec.ridge, spec.erase_scale, spec.preserve_scale)
    names = target_modules(model.unet, "xattn_strict")
    layers = {n: (model.unet.get_submodule(n).weight.detach().double() @ difference, down) for n in names}
    info = {"columns": int(e.shape[0]), "rank": wear(model, layers, callback), "residual": 0.0}
    return Delta.of(model, **info, unet_evaluations=model.evaluations - evaluations, seconds=time.monotonic() - begun)

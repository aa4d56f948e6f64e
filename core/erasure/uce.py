"""UCE, Unified Concept Editing (Gandikota et al., WACV 2024), in closed form and delivered as its exact LoRA.

W' = (lambda W + s_e sum W g e^T + s_p sum W p p^T) M^-1,  M = lambda I + s_e sum e e^T + s_p sum p p^T
so  W' - W = s_e sum W (g - e) e^T M^-1:  up = W (g - e), down = s_e e^T M^-1, of rank at most the number of columns e.
"""

import time

import torch
from torch import Tensor

from core.concepts import forbidden
from core.erasure.delta import Delta
from core.erasure.layers import exact_config, target_modules
from core.models import StableDiffusion
from core.models.vocabulary import article
from core.progress import Callback
from core.specs import EraseSpec, UceSpec


def factors(e: Tensor, g: Tensor, p: Tensor, spec: UceSpec) -> tuple[Tensor, Tensor]:
    """(D, n) difference columns g - e and (n, D) rows s_e e^T M^-1, in float64. e, g: (n, D) erased and target columns; p: (m, D) preserved.

    Columns that the edit leaves where they are (a shared prefix) weigh in M but need no factor. More columns than D fold
    into one factor of D: the product is the same, and exact.
    """
    e, g, p = e.double(), g.double(), p.double()
    m = spec.ridge * torch.eye(e.shape[1], dtype=e.dtype, device=e.device) + spec.erase_scale * e.T @ e + spec.preserve_scale * p.T @ p
    moved = (g - e).abs().amax(1) > 1e-9
    difference, down = (g - e)[moved].T, spec.erase_scale * torch.linalg.solve(m, e[moved].T).T
    if difference.shape[1] > e.shape[1]:
        return difference @ down, torch.eye(e.shape[1], dtype=e.dtype, device=e.device)
    return difference, down


def columns(model: StableDiffusion, prompts: list[str], tokens: str) -> Tensor:
    """The token columns that are edited: all of them, or each prompt's last before EOS; (n, D)."""
    states = model.encode(prompts)
    if tokens == "all":
        return states.flatten(0, 1)
    tokenizer = model.pipe.tokenizer
    lengths = [len(ids) for ids in tokenizer(prompts, truncation=True, max_length=tokenizer.model_max_length).input_ids]
    return torch.stack([s[max(0, n - 2)] for s, n in zip(states, lengths, strict=True)])


def edit(model: StableDiffusion, request: EraseSpec, spec: UceSpec, callback: Callback) -> Delta:
    """Edit every attn2.to_k and to_v at once; seconds on a CPU."""
    begun, evaluations = time.monotonic(), model.evaluations

    def expand(name: str) -> list[str]:
        return model.vocabulary.prompts(name) if spec.expand_prompts else [name]

    sources, targets = list[str](), list[str]()
    for concept in request.concepts:
        guide = concept.target if concept.target is not None else spec.guide
        for word in forbidden(concept):
            prompts = expand(word)
            sources += prompts
            targets += [article(p.replace(word, guide)).strip() for p in prompts] if guide else [""] * len(prompts)
    preserved = [p for name in (*spec.preserve, *request.preserve) for p in expand(name)]
    callback({"phase": "encode", "step": 0, "total": 1, "message": f"{len(sources)} prompts to edit, {len(preserved)} to hold"})
    e, g = columns(model, sources, spec.tokens), columns(model, targets, spec.tokens)
    p = columns(model, preserved, spec.tokens) if preserved else e.new_zeros(0, e.shape[1])
    difference, down = factors(e, g, p, spec)

    names = target_modules(model.unet, "xattn_strict")
    weights = {n: model.unet.get_submodule(n).weight.detach() for n in names}
    model.add_adapter(exact_config(names, down.shape[0]))
    state = model.adapter_state()
    for i, (name, weight) in enumerate(weights.items()):
        state[f"{name}.lora_A.weight"] = down.float().cpu()
        state[f"{name}.lora_B.weight"] = (weight.double() @ difference).float().cpu()
        callback({"phase": "erase", "step": i + 1, "total": len(names)})
    model.set_adapter_state(state)
    info = {"columns": int(e.shape[0]), "rank": int(down.shape[0]), "residual": 0.0}
    return Delta.of(model, **info, unet_evaluations=model.evaluations - evaluations, seconds=time.monotonic() - begun)

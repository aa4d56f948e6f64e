"""RECE, Reliable and Efficient Concept Erasure (Gong et al., ECCV 2024): UCE, then round after round of
closed-form re-erasing.

After an edit, c' = (sum W'^T W' + lambda I)^-1 (sum W'^T W) c, over all edited layers, is the embedding that
still brings the old values of c back; it is erased next. The sum of the rounds is a LoRA of full rank: exact,
and as large as the layers.
"""

import time
from typing import Any

import torch
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.erasure.closed_form import columns, condensed, edited_layers, wear
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.methods.uce import prompts_of, seen_names
from expunge.core.models import Denoiser
from expunge.core.progress import Callback
from expunge.core.specs import EraseSpec, ReceSpec


def adversarial(old: list[Tensor], new: list[Tensor], c: Tensor, ridge: float) -> Tensor:
    """The columns (n, D) whose new values come nearest to the old values of c (n, D); old, new: each layer's
    W and W', (out, D).
    """
    gram = ridge * torch.eye(c.shape[1], dtype=c.dtype, device=c.device) + sum(
        (w.T @ w for w in new), torch.zeros((), dtype=c.dtype)
    )
    cross = sum((w.T @ v for w, v in zip(new, old, strict=True)), torch.zeros((), dtype=c.dtype))
    found: Tensor = torch.linalg.solve(gram, cross @ c.T).T
    return found


def edit(
    model: Denoiser,
    request: EraseSpec,
    spec: ReceSpec,
    callback: Callback,
    _checkpoints: Checkpoints | None = None,
) -> Delta:
    """UCE's edit and `rounds` more of what is left; a round's targets are the base model's values, its other
    columns are held.
    """
    begun, evaluations = time.monotonic(), model.evaluations
    sources, targets, preserved = prompts_of(model, request, spec)
    message = f"{len(sources)} prompts to edit, {len(preserved)} to hold"
    callback({"phase": "encode", "step": 0, "total": 1, "message": message})
    concept, g = columns(model, sources, spec.tokens).double(), columns(model, targets, spec.tokens).double()
    p = condensed(model, preserved, spec.tokens) if preserved else concept.new_zeros(0, concept.shape[1])
    names = edited_layers(model)
    old = [model.weight(n).double() for n in names]
    new, e = [w.clone() for w in old], concept
    for round_ in range(spec.rounds + 1):
        m = (
            spec.ridge * torch.eye(e.shape[1], dtype=e.dtype, device=e.device)
            + spec.erase_scale * e.T @ e
            + spec.preserve_scale * p.T @ p
        )
        down = torch.linalg.solve(m, spec.erase_scale * e.T)  # (D, n): M^-1 e, as M is symmetric
        new = [w + (v @ g.T - w @ e.T) @ down.T for w, v in zip(new, old, strict=True)]
        e = adversarial(old, new, concept, spec.adversarial_ridge)
        strength = float(
            torch.stack(
                [(w @ e.T - v @ concept.T).square().mean() for w, v in zip(new, old, strict=True)]
            ).mean()
        )
        callback({"phase": "erase", "step": round_ + 1, "total": spec.rounds + 1, "loss": strength})
    layers = {
        n: (w - v, torch.eye(w.shape[1], dtype=w.dtype, device=w.device))
        for n, w, v in zip(names, new, old, strict=True)
    }
    info: dict[str, Any] = {
        "columns": int(concept.shape[0]),
        "rank": wear(model, layers, callback),
        "residual": 0.0,
    }
    info["held"] = seen_names(model, request, spec)
    return Delta.of(
        model, **info, unet_evaluations=model.evaluations - evaluations, seconds=time.monotonic() - begun
    )

"""Saliency-guided fine-tuning (SalUn, Fan et al., ICLR 2024), by whole adapters: an element mask would break their low rank.

At the start B = 0, and dL/dB = scale dL/dW A^T: a random projection of the layer's gradient. The adapters with the largest are
trained, the others stay zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.models import StableDiffusion


def train_the_salient(model: StableDiffusion, share: float, batches: int, loss: Callable[[int], Tensor]) -> list[str]:
    """Freeze all adapters but the `share` of them with the largest |sum over batches of dL/dB|_F / sqrt(numel); the names of those kept."""
    ups = {n.removesuffix(".lora_B.default.weight"): p for n, p in model.unet.named_parameters() if n.endswith(".lora_B.default.weight")}
    if share >= 1:
        return list(ups)
    totals = [torch.zeros_like(p) for p in ups.values()]
    for k in range(batches):
        for total, g in zip(totals, torch.autograd.grad(loss(k), list(ups.values())), strict=True):
            total += g
    scores = torch.stack([t.norm() / t.numel() ** 0.5 for t in totals])
    names = list(ups)
    chosen = [names[i] for i in scores.argsort(descending=True, stable=True)[: max(1, round(share * len(names)))].tolist()]
    for name, parameter in model.unet.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(name.split(".lora_")[0] in chosen)
    return chosen

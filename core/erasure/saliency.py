"""Saliency-guided fine-tuning (SalUn, Fan et al., ICLR 2024), by whole adapters: an element mask would break
their low rank.

At the start B = 0, and dL/dB = scale dL/dW A^T: a random projection of the layer's gradient. The adapters
with the largest are trained, the others stay zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from expunge.core.models import Denoiser


def train_the_salient(
    model: Denoiser, share: float, batches: int, loss: Callable[[int], Tensor]
) -> list[str]:
    """Freeze all adapters but the `share` of them with the largest |sum over batches of dL/dB|_F /
    sqrt(numel); the names of those kept.

    Of a mask under learning, whose layers have logits instead of B, the gradient of the logits counts.
    """
    layers = model.trained_layers()
    if share >= 1:
        return list(layers)
    ups = [parameters[-1] for parameters in layers.values()]
    totals = [torch.zeros_like(p) for p in ups]
    for k in range(batches):
        for total, g in zip(totals, model.gradients(loss(k), ups), strict=True):
            assert g is not None
            total += g
    scores = torch.stack([t.norm() / t.numel() ** 0.5 for t in totals])
    names = list(layers)
    chosen = [
        names[i]
        for i in scores.argsort(descending=True, stable=True)[: max(1, round(share * len(names)))].tolist()
    ]
    for name, parameters in layers.items():
        for parameter in parameters:
            parameter.requires_grad_(name in chosen)
    return chosen

"""Gradients through a network in half precision: float16 has no numbers below 6e-8, where most of a small
loss's gradients lie.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SCALES = (2.0**16, 2.0**12, 2.0**8, 2.0**4, 1.0)


def gradients(loss: Tensor, inputs: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor | None]:
    """d loss / d inputs (None: the loss does not depend on it), through a network that computes in `dtype`.

    In float16 the loss is multiplied by the largest of SCALES whose gradients are finite, and these divided
    by it: powers of two, so that nothing is rounded. Which one it is depends on the step alone; a resumed run
    needs no memory of it.
    """
    if dtype != torch.float16:
        return list(torch.autograd.grad(loss, inputs, allow_unused=True))
    for scale in SCALES:
        last = scale == SCALES[-1]
        found = torch.autograd.grad(loss * scale, inputs, allow_unused=True, retain_graph=not last)
        if last or bool(torch.stack([g.isfinite().all() for g in found if g is not None]).all()):
            break
    return [g if g is None else g.float() / scale for g in found]

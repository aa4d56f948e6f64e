"""Is there any leakage at all? HSIC (Gretton et al., 2005) of C and X, with a permutation p-value."""

import torch
from torch import Tensor

from expunge.core.sampling import seeded

PERMUTATIONS = 999


def hsic_test(concept: Tensor, other: Tensor, seed: int) -> tuple[float, float]:
    """HSIC of C and X, and its p-value, from latents (N, ...) of both, drawn in pairs.

    A Gaussian kernel, its width the median distance, on the latents; on C whether two are equal. For a
    balanced C that is c' K c / (2 (2N)^2), with c = 1 for the concept and -1 for the other: half the squared
    distance of the two mean embeddings, which is 0 only where both have one distribution. p: the share of
    random swaps of C inside the pairs, this one counted, with an HSIC at least as large. Where the prompts
    of a pair draw one distribution p is below any level a that often at most.
    """
    x = torch.cat([concept, other]).flatten(1).double().cpu()
    squared = torch.cdist(x, x).square()
    width = squared[~torch.eye(len(x), dtype=torch.bool)].median().clamp(min=1e-12)
    kernel = (-squared / (2 * width)).exp()

    # Row 0 is C as it is; every other row swaps it inside some of the pairs.
    swaps = torch.randint(2, (PERMUTATIONS, len(concept)), generator=seeded(seed)) * 2 - 1
    signs = torch.cat([torch.ones(1, len(concept)), swaps]).double()
    c = torch.cat([signs, -signs], 1)
    found = ((c @ kernel) * c).sum(1) / (2 * len(x) ** 2)
    at_least = found >= found[0] * (1 - 1e-9)  # rounding must not tell equal ones apart
    return float(found[0]), float(at_least.double().mean())

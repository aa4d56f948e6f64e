"""The lower end: what fresh critics read off pictures that they were not fitted to.

For any critic D that has not seen x, E[log 2 - BCE(D)] <= I(C; X) for a balanced C, with equality for the
best one. A critic here is a kernel logistic regression on latents: fitted to its optimum, so that nothing is
stopped early, and regularised as cross-validation inside its own pictures advises, so that it says "one half"
where they show no difference. docs/measured.md has a convolutional network beside it.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from expunge.core.sampling import seeded

FOLDS, INNER = 8, 4
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
NEWTON = 10  # steps; it converges in fewer
MOST = 512  # latents that a critic is fitted to


def read_off(concept: Tensor, other: Tensor, seed: int) -> Tensor:
    """Nats that critics read off each pair of latents (N, ...), of the concept and of the other, (N,): the
    mean is the lower end.

    Each pair is read by the critic that was fitted to the pairs of the other folds. The mean is in
    expectation a lower bound. It is below 0 where the critics do worse than a coin, and is not clipped there,
    which would lift its mean.
    """
    count = len(concept)
    if count < 2:
        return torch.zeros(count, dtype=torch.float64)

    # Pairs in a random order, the concept's latents in the even rows; pairs stay together in their fold.
    order = torch.randperm(count, generator=seeded(seed))
    x = torch.stack([concept[order], other[order]], 1).flatten(0, 1).flatten(1).double().cpu()
    c = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(count)
    fold = torch.arange(2 * count) // 2 % min(FOLDS, count)

    nats = torch.zeros(2 * count, dtype=torch.float64)
    for k in range(min(FOLDS, count)):
        seen, judged = fold != k, fold == k
        logits = critic(x[seen][:MOST], c[seen][:MOST], x[judged])
        nats[judged] = math.log(2) - softplus(-c[judged] * logits)
    found = torch.empty(count, dtype=torch.float64)
    found[order] = nats.view(count, 2).mean(1)
    return found


def leakage(concept: Tensor, other: Tensor, seed: int) -> float:
    """The lower end of I(C; X) in nats, from latents (N, ...) of both."""
    return float(read_off(concept, other, seed).mean())


def critic(x: Tensor, c: Tensor, judged: Tensor) -> Tensor:
    """Logits of "this is the concept", (M,), of `judged` (M, D), by a critic fitted to x (N, D) and c = 1 or
    -1, (N,). Its penalty is the one that predicts the inner folds best.
    """
    kernel, across = kernels(x, judged)
    penalties = torch.tensor(PENALTIES, dtype=x.dtype)
    fold, loss = torch.arange(len(x)) // 2 % INNER, torch.zeros_like(penalties)
    for k in range(INNER):
        seen, held = fold != k, fold == k
        weights = fit(kernel[seen][:, seen], c[seen], penalties)
        loss += softplus(-c[held] * (weights @ kernel[seen][:, held])).sum(1)
    best = penalties[loss.argmin()]
    return across @ fit(kernel, c, best[None])[0]


def kernels(x: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel on x, (N, N), and of `judged` with x, (M, N): a linear one, about the mean, and a Gaussian
    one of median width, each 1 on average where a picture meets itself.
    """
    squared = torch.cdist(x, x).square()
    width = squared[~torch.eye(len(x), dtype=torch.bool)].median().clamp(min=1e-12)
    centred, mean = x - x.mean(0), x.mean(0)
    scale = centred.square().sum(1).mean().clamp(min=1e-12)
    kernel = centred @ centred.T / scale + (-squared / (2 * width)).exp()
    across = torch.cdist(judged, x).square()
    return kernel, (judged - mean) @ centred.T / scale + (-across / (2 * width)).exp()


def fit(kernel: Tensor, c: Tensor, penalties: Tensor) -> Tensor:
    """The weights a of kernel logistic regression for each penalty, (P, N): Newton's method on the
    cross-entropy of K a plus penalty / 2 of a' K a.
    """
    weights = torch.zeros(len(penalties), len(c), dtype=kernel.dtype)
    for _ in range(NEWTON):
        logits = weights @ kernel
        p = logits.sigmoid()
        slope = (p * (1 - p)).clamp(min=1e-4)
        wanted = logits + ((c + 1) / 2 - p) / slope
        weights = torch.linalg.solve(kernel + torch.diag_embed(penalties[:, None] / slope), wanted)
    return weights

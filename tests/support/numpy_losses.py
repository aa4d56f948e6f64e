"""A model small enough to compute by hand, and its losses one number at a time."""

from contextlib import contextmanager

import numpy as np
import torch

from expunge.core.erasure.single_loss import Texts
from expunge.core.models import Text
from expunge.core.models.schedule import Schedule
from expunge.core.sampling import Latents

ALPHAS = torch.linspace(0.95, 0.05, 10)


class Linear:
    """eps(z, t, c) = (w + delta) * mean(c) + z / 10 + t / 100: small enough to compute by hand; `delta` is
    the adapter.
    """

    def __init__(self) -> None:
        self.w, self.delta, self.on = 2.0, torch.tensor(0.5, requires_grad=True), True
        self.schedule = Schedule(ALPHAS)

    @contextmanager
    def frozen(self):
        self.on = False
        yield
        self.on = True

    def predict(self, z, t, text):
        scale = self.w + (self.delta if self.on else 0.0)
        return scale * text.states.mean((1, 2)).view(-1, 1, 1, 1) + z / 10 + t.view(-1, 1, 1, 1) / 100


def by_hand(z, t, c, scale):
    return scale * c.mean(axis=(1, 2))[:, None, None, None] + z / 10 + t[:, None, None, None] / 100


def inputs(seed: int):
    g = torch.Generator().manual_seed(seed)
    z, c = torch.randn(3, 4, 2, 2, generator=g, dtype=torch.float32), torch.randn(3, 5, 6, generator=g)
    return Latents(z, torch.tensor([1, 4, 8])), c


def texts(concept, target=None, kept=None):
    empty = torch.full_like(concept, 0.1)
    wanted = None if target is None else Text(target)
    return Texts(Text(concept), Text(concept), wanted, Text(empty), Text(empty if kept is None else kept))


def weighted(a, b, t, space):
    total = 0.0
    for i in range(len(a)):
        alpha = float(ALPHAS[t[i]])
        total += float(np.mean((a[i] - b[i]) ** 2)) * ((1 - alpha) / alpha if space == "x0" else 1.0)
    return total / len(a)

"""A critic that tells two sets of latents apart, and what its success says: I(C; X) >= log 2 - BCE for a
balanced C (a lower bound).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.parametrizations import spectral_norm


class Critic(nn.Module):
    """PatchGAN on latents (B, 4, h, w) at times t (B,) in [0, 1): logits (B, patches) of "this is the
    concept"; spectral norm throughout.
    """

    def __init__(self, channels: int = 4, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Linear(4, width)
        self.enter = spectral_norm(nn.Conv2d(channels, width, 3, padding=1))
        self.body = nn.Sequential(
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, 2 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 2 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1)),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = torch.cat(
            [torch.stack([(math.pi * f * t).sin(), (math.pi * f * t).cos()], 1) for f in (1.0, 4.0)], 1
        )
        out: Tensor = self.body(self.enter(x) + self.time(waves)[:, :, None, None])
        return out.flatten(1)


def bce(logits: Tensor, label: float) -> Tensor:
    """Binary cross-entropy of every patch against one label in [0, 1], a scalar in nats."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def leakage(concept: Tensor, other: Tensor, seed: int, steps: int = 100) -> float:
    """Nats that fresh critics read off latents (N, 4, h, w): log 2 - BCE, each half judged by the critic
    trained on the other.

    In expectation a lower bound of I(C; X), which is at most log 2; below 0 the critics do worse than a coin,
    and nothing was read. No step is picked by its result. The critic that took part in the training is fooled
    by design, and tells nothing.
    """
    folds, g = torch.arange(len(concept)) % 2, torch.Generator().manual_seed(seed)
    total = 0.0
    for fold in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = Critic(concept.shape[1]).to(concept.device)
        optimiser = torch.optim.Adam(critic.parameters(), lr=1e-3)
        (seen, judged), (seen_other, judged_other) = (
            (x[folds != fold], x[folds == fold]) for x in (concept, other)
        )
        for _ in range(steps):
            a, b = (x[torch.randint(len(x), (16,), generator=g)] for x in (seen, seen_other))
            t = torch.zeros(16, device=concept.device)
            loss = (bce(critic(a, t), 1.0) + bce(critic(b, t), 0.0)) / 2
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            t = torch.zeros(len(judged), device=concept.device)
            total += (
                float(bce(critic(judged, t).mean(1), 1.0) + bce(critic(judged_other, t).mean(1), 0.0)) / 2
            )
    return math.log(2) - total / 2

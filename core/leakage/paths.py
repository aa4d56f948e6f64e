"""The upper end: what a whole sampling path says of whether the concept was asked for.

A picture is drawn by the ancestral sampler: z_0 is noise, and z_{k+1} is normal about mu_c(z_k) with
deviation s_k, where mu_c is the guided step with the prompt of C = c, and s_k is the same for both prompts.
X is the last z, at the lowest noise level of training, where noise cannot be seen. Along a path z of c, with
d_k = mu_c(z_k) - mu_{1-c}(z_k) and e_k the noise that was drawn at step k,

    log P_c(z) / P_{1-c}(z) = sum_k |d_k|^2 / (2 s_k^2) + d_k e_k / s_k  =: L(z),

whose mean over the paths of c is KL(P_c | P_{1-c}), the sum of the steps' own divergences
|d_k|^2 / (2 s_k^2). X is a function of the path, so that for a balanced C (data processing, then convexity
of KL)

    I(C; X) <= I(C; path) = KL(P_1 | M) / 2 + KL(P_0 | M) / 2,    M = (P_1 + P_0) / 2
                          <= KL(P_1 | P_0) / 4 + KL(P_0 | P_1) / 4,

and I(C; path) <= log 2. The first is the upper end. Both densities are known along a path, so it needs no
critic: KL(P_c | M) is the mean of log 2 - log(1 + exp(-L)), which is never above log 2 and is not cut off
at 0. The second, the path KL, tells models apart where the first has long reached log 2. Prompts j that are
drawn as pairs only add to the bound: C is independent of j, so I(C; X) <= I(C; X, j) = mean_j I(C; X | j).

The bound is tight in the limit of many steps of an exact network, for then both reversed paths are noised
from X alike; with guidance and few steps it is loose, and its last steps, where little noise is left, make
most of it. It speaks of what this sampler draws, on these prompts, up to the interval of the mean; with a
deterministic sampler (DDIM with eta 0) paths of two prompts have no common support, and there is no such
bound. In the limit of many steps no other amount of noise gives a smaller path KL: it goes with
(1 + a^2)^2 / a^2, a = 1 being this one's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from expunge.core.memory import in_batches
from expunge.core.models import Denoiser, Text
from expunge.core.progress import Callback, ignore
from expunge.core.sampling import seeded


@dataclass(frozen=True)
class Paths:
    """N paths of each C, row 0 with the concept asked for (C = 1), row 1 with the other prompt (C = 0).

    ends: the last latents, (2, N, C, h, w); log_ratio: L of each path, (2, N); divergence: the sum of its
    steps' own divergences, (2, N); both in nats.
    """

    ends: Tensor
    log_ratio: Tensor
    divergence: Tensor

    @property
    def upper(self) -> Tensor:
        """For each pair of paths what its mean is I(C; path) of, (N,), in nats: at most log 2."""
        return (math.log(2) - softplus(-self.log_ratio)).mean(0)

    @property
    def path_kl(self) -> Tensor:
        """For each pair what its mean is KL(P_1 | P_0) / 4 + KL(P_0 | P_1) / 4 of, (N,), in nats."""
        return self.divergence.mean(0) / 2


@torch.no_grad()
def walk(
    model: Denoiser,
    prompts: Sequence[tuple[str, str]],
    *,
    seed: int,
    steps: int,
    guidance: float,
    batch: int = 16,
    callback: Callback = ignore,
) -> Paths:
    """Draw a path for both prompts of each pair, by the model as it stands. Every path has its own noise,
    which depends on the seed and its place alone.

    A path costs twice what a picture does, as each step asks for both prompts, and counts as two steps of
    progress.
    """
    rows = [(i, c) for c in (0, 1) for i in range(len(prompts))]

    def some(start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        own = model.encode([prompts[i][c] for i, c in rows[start:end]])
        other = model.encode([prompts[i][1 - c] for i, c in rows[start:end]])
        generators = [seeded(seed, i, c) for i, c in rows[start:end]]
        found = walk_rows(model, own, other, generators, steps, guidance)
        callback({"phase": "evaluate", "step": 2 * end, "total": 2 * len(rows)})
        return found

    parts = in_batches(len(rows), max(1, batch // 2), some)
    ends, log_ratio, divergence = (torch.cat(each) for each in zip(*parts, strict=True))
    count = len(prompts)
    return Paths(ends.view(2, count, *ends.shape[1:]), log_ratio.view(2, count), divergence.view(2, count))


def walk_rows(
    model: Denoiser,
    own: Text,
    other: Text,
    generators: Sequence[torch.Generator],
    steps: int,
    guidance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Paths of the prompts `own`, B of them: their ends, and log ratio and divergence from `other`."""
    sampler, schedule = model.sampler(steps), model.schedule
    both = Text.cat([own, other])
    empty = model.unconditional().expand(len(both))

    def noise() -> Tensor:
        return torch.stack([torch.randn(model.latent_shape, generator=g) for g in generators]).to(
            model.device
        )

    z = noise()
    log_ratio = torch.zeros(len(own), dtype=torch.float64)
    divergence = log_ratio.clone()
    for level, following in sampler.moves:
        t = torch.full((len(both),), level, device=model.device)
        out = model.predict_guided(torch.cat([z, z]), t, both, empty, guidance)
        mean, deviation = schedule.ancestral(torch.cat([z, z]), out, t, torch.full_like(t, following))
        (mine, theirs), deviation = mean.chunk(2), deviation[: len(z)]

        # The step, and what it says of the prompt; sums in float64, as they reach thousands of nats.
        e = noise()
        d = ((mine - theirs) / deviation).flatten(1).double()
        own_kl = (d.square().sum(1) / 2).cpu()
        divergence += own_kl
        log_ratio += own_kl + (d * e.flatten(1).double()).sum(1).cpu()
        z = mine + deviation * e
    return z.cpu(), log_ratio, divergence

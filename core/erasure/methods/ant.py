"""ANT, Set You Straight: Auto-Steering Denoising Trajectories to Sidestep Unwanted Concepts (Li et al.,
2025).

Early, noisy steps keep the concept's direction, eps(0) + eta (eps(c) - eps(0)); later ones reverse it, eps(0)
- eta (eps(c) - eps(0)); the unconditional score may not drift in either:   l3 + a2 l4 + a1 (l1 + a2 l2).

l1 and l2 are means over the early timesteps, l3 and l4 over the later ones: the authors draw a timestep of
each half at every step. Here one draw of all timesteps serves both, and a row is divided by how often its
half is drawn. `paper` is that. In the authors' code the index counts from the clean end and both drift terms
are computed without a graph: `authors_code` keeps the clean steps and has no drift term.
"""

from functools import partial

import torch
from torch import Tensor

from expunge.core.erasure.losses import errors
from expunge.core.erasure.method import Run
from expunge.core.erasure.single_loss import SingleLoss, Texts
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import AntSpec


def keeps_direction(t: Tensor, length: int, spec: AntSpec) -> Tensor:
    """Which rows' timesteps (B,) keep their direction; `length` is the number of training timesteps."""
    share = t.float() / length
    return share >= 1 - spec.keep if spec.variant == "paper" else share < spec.keep


def loss(model: Denoiser, x: Latents, texts: Texts, spec: AntSpec, early_share: float) -> Tensor:
    """A row falls into one half by its timestep; `early_share` of the timesteps that rows are drawn from
    keep their direction. Scalar out.
    """
    with model.frozen(), torch.no_grad():
        old = model.predict(*cat(x, x, x), Text.cat([texts.target_or_empty, texts.concept, texts.empty]))
        old_a, old_c, old_0 = old.chunk(3)
    new_c, new_0 = model.predict(*cat(x, x), Text.cat([texts.asked, texts.empty])).chunk(2)

    # Early rows go on towards the concept, later ones away from it.
    early = keeps_direction(x.t, len(model.schedule), spec)
    towards = old_0 + spec.eta_keep * (old_c - old_0)
    away = old_a - spec.eta * (old_c - old_a)
    direction = torch.where(early.view(-1, 1, 1, 1), towards, away)

    space = model.schedule.weights(x.t, spec.space)
    steer = errors(new_c, direction, space)
    drift = torch.zeros_like(steer)
    if spec.variant == "paper":
        drift = spec.drift_weight * errors(new_0, old_0, space)
    halves = torch.where(early, spec.keep_weight / max(early_share, 1e-12), 1 / max(1 - early_share, 1e-12))
    return (halves * (steer + drift)).mean()


class Ant(SingleLoss[AntSpec]):
    """The loss, and how its timesteps divide."""

    def __init__(self, run: Run[AntSpec]) -> None:
        early = keeps_direction(run.trajectories.timesteps, len(run.model.schedule), run.spec)
        super().__init__(run, partial(loss, early_share=float(early.float().mean())), holds=False)


METHOD = Ant

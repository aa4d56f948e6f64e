"""The error that losses are made of, on predictions of the network's own kind."""

import torch
from torch import Tensor

from expunge.core.models import Denoiser, Text
from expunge.core.models.schedule import Space
from expunge.core.sampling import Latents


def errors(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of each row of two predictions (B, C, h, w), (B,), times the rows' weights (B,)."""
    squared = (a - b).square().flatten(1).mean(1)
    return squared if weights is None else squared * weights


def error(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of `errors` over the rows, a scalar."""
    return errors(a, b, weights).mean()


def guided_away(target: Tensor, concept: Tensor, eta: float) -> Tensor:
    """p_t - eta (p_c - p_t): the prediction of the target, pushed away from the concept's."""
    return target - eta * (concept - target) if eta else target


def drift(model: Denoiser, x: Latents, text: Text, space: Space) -> Tensor:
    """|p'(c) - p(c)|^2: how far the model has moved from the base model on a text it keeps; a scalar."""
    with model.frozen(), torch.no_grad():
        old = model.predict(x.z, x.t, text)
    return error(model.predict(x.z, x.t, text), old, model.schedule.weights(x.t, space))

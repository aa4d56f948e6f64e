"""ESD, Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023)."""

from functools import partial

import torch
from torch import Tensor

from expunge.core.erasure.losses import error, guided_away
from expunge.core.erasure.single_loss import SingleLoss, Texts
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import EsdSpec


def loss(model: Denoiser, x: Latents, texts: Texts, spec: EsdSpec) -> Tensor:
    """Pull p'(z, c) to p(z, a) - eta [p(z, c) - p(z, a)], a = the empty prompt or the user's target, p the
    network's prediction.

    x: z (B, C, h, w), t (B,); scalar out. Gradient reaches theta' alone.
    """
    with model.frozen(), torch.no_grad():
        old = model.predict(*cat(x, x), Text.cat([texts.target_or_empty, texts.concept]))
        old_a, old_c = old.chunk(2)
    new = model.predict(x.z, x.t, texts.asked)
    return error(new, guided_away(old_a, old_c, spec.eta), model.schedule.weights(x.t, spec.space))


METHOD = partial(SingleLoss, loss=loss, holds=False)

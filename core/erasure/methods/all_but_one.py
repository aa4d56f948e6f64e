"""All but One: surgical concept erasing with model preservation (Hong et al., AAAI 2024). A reconstruction:
no public code was found.

The guidance term G(c) = eps(c) - eps(0) is what is edited, and the unconditional score may not drift:

|G'(c_e) - T|^2  +  lambda |eps'(0) - eps(0)|^2,   T = G(c*) with an alternative concept c*, -eta G(c_e)
without.
"""

from functools import partial

import torch
from torch import Tensor

from expunge.core.erasure.losses import error
from expunge.core.erasure.single_loss import SingleLoss, Texts
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import AllButOneSpec


def loss(model: Denoiser, x: Latents, texts: Texts, spec: AllButOneSpec) -> Tensor:
    """Scalar out; gradient reaches theta' through both halves of G'."""
    source, strength = (texts.concept, -spec.eta) if texts.target is None else (texts.target, 1.0)
    z, t = cat(x, x)
    with model.frozen(), torch.no_grad():
        old_0, old_s = model.predict(z, t, Text.cat([texts.empty, source])).chunk(2)
    new_0, new_c = model.predict(z, t, Text.cat([texts.empty, texts.asked])).chunk(2)
    weights = model.schedule.weights(x.t, spec.space)
    guidance = error(new_c - new_0, strength * (old_s - old_0), weights)
    return guidance + spec.drift_weight * error(new_0, old_0, weights)


METHOD = partial(SingleLoss, loss=loss, holds=False)

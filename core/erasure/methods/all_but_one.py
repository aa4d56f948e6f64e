"""All but One: surgical concept erasing with model preservation (Hong et al., AAAI 2024). A reconstruction:
no public code was found.

The guidance term G(c) = eps(c) - eps(0) is what is edited, and the unconditional score may not drift:

|G'(c_e) - T|^2  +  lambda |eps'(0) - eps(0)|^2,   T = G(c*) with an alternative concept c*, -eta G(c_e)
without.
"""

import torch
from torch import Tensor

from expunge.core.erasure.losses import Latents, cat, error
from expunge.core.erasure.single_loss import Texts
from expunge.core.models import Denoiser
from expunge.core.specs import AllButOneSpec


def loss(model: Denoiser, x: Latents, texts: Texts, spec: AllButOneSpec) -> Tensor:
    """Scalar out; gradient reaches theta' through both halves of G'."""
    source = texts.concept if texts.target is None else texts.target
    z, t = cat(x, x)
    with model.frozen(), torch.no_grad():
        eps_0, eps_s = model.predict(z, t, torch.cat([texts.empty, source])).chunk(2)
    aim = (-spec.eta if texts.target is None else 1.0) * (eps_s - eps_0)
    new_0, new_c = model.predict(z, t, torch.cat([texts.empty, texts.concept])).chunk(2)
    guidance = error(new_c - new_0, aim, model.alphas[x.t], spec.space)
    return guidance + spec.drift_weight * error(new_0, eps_0, model.alphas[x.t], spec.space)

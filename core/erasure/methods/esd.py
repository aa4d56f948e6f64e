"""ESD, Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023)."""

import torch
from torch import Tensor

from expunge.core.erasure.losses import Latents, error, guided_away
from expunge.core.erasure.single_loss import Texts
from expunge.core.models import Denoiser
from expunge.core.specs import EsdSpec


def loss(model: Denoiser, x: Latents, texts: Texts, spec: EsdSpec) -> Tensor:
    """Pull eps'(z, c) to eps(z, a) - eta [eps(z, c) - eps(z, a)], a = the empty prompt or the user's target.

    x: z (B, 4, h, w), t (B,); scalar out. Gradient reaches theta' alone.
    """
    with model.frozen(), torch.no_grad():
        eps_a, eps_c = model.predict(
            torch.cat([x.z, x.z]), torch.cat([x.t, x.t]), torch.cat([texts.anchor, texts.concept])
        ).chunk(2)
    return error(
        model.predict(x.z, x.t, texts.concept),
        guided_away(eps_a, eps_c, spec.eta),
        model.alphas[x.t],
        spec.space,
    )

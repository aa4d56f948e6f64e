"""The naive output-based method, Eq. 7/13 of the concept-erasure literature: map the concept to a target,
hold a neutral concept.

|eps'(c_e) - eps(c_t)|^2  +  lambda |eps'(c_n) - eps(c_n)|^2
"""

import torch
from torch import Tensor

from expunge.core.erasure.losses import Latents, cat, error, guided_away
from expunge.core.erasure.single_loss import Texts
from expunge.core.models import Denoiser
from expunge.core.specs import NaiveSpec


def loss(model: Denoiser, x: Latents, texts: Texts, spec: NaiveSpec) -> Tensor:
    """c_t is the user's target or the empty prompt; c_n a preserved concept or the empty prompt, on the same
    z. Scalar out.
    """
    z, t = cat(x, x)
    with model.frozen(), torch.no_grad():
        eps_t, eps_n, eps_c = model.predict(
            *cat(x, x, x), torch.cat([texts.anchor, texts.kept, texts.concept])
        ).chunk(3)
    new_c, new_n = model.predict(z, t, torch.cat([texts.concept, texts.kept])).chunk(2)
    erase = error(new_c, guided_away(eps_t, eps_c, spec.eta), model.alphas[x.t], spec.space)
    return erase + spec.preserve_weight * error(new_n, eps_n, model.alphas[x.t], spec.space)

"""The naive output-based method, Eq. 7/13 of the concept-erasure literature: map the concept to a target,
hold a neutral concept.

|eps'(c_e) - eps(c_t)|^2  +  lambda |eps'(c_n) - eps(c_n)|^2
"""

from functools import partial

import torch
from torch import Tensor

from expunge.core.erasure.losses import error, guided_away
from expunge.core.erasure.single_loss import SingleLoss, Texts
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import NaiveSpec


def loss(model: Denoiser, x: Latents, texts: Texts, spec: NaiveSpec) -> Tensor:
    """c_t is the user's target or the empty prompt; c_n a preserved concept or the empty prompt, on the same
    z. Scalar out.
    """
    with model.frozen(), torch.no_grad():
        old = model.predict(*cat(x, x, x), Text.cat([texts.target_or_empty, texts.kept, texts.concept]))
        old_t, old_n, old_c = old.chunk(3)
    new_c, new_n = model.predict(*cat(x, x), Text.cat([texts.asked, texts.kept])).chunk(2)
    weights = model.schedule.weights(x.t, spec.space)
    erase = error(new_c, guided_away(old_t, old_c, spec.eta), weights)
    return erase + spec.preserve_weight * error(new_n, old_n, weights)


METHOD = partial(SingleLoss, loss=loss)

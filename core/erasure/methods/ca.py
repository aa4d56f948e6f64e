"""CA, Ablating Concepts in Text-to-Image Diffusion Models (Kumari et al., ICCV 2023).

|eps'(z_t, c) - sg[eps'(z_t, c_t)]|^2  +  prior_weight |eps'(z_t, c_t) - noise|^2,   z_t = noised
pictures of the target

The target's pictures are drawn by the base model first: the authors' thousand photographs of a class are here
`pictures` clean latents of the target. Its prediction is the *current* network's, with the gradient stopped,
as in the authors' code.
"""

from contextlib import nullcontext

import torch
from torch import Generator, Tensor

from expunge.core.concepts import candidates
from expunge.core.erasure.losses import error
from expunge.core.erasure.method import Run
from expunge.core.erasure.single_loss import SingleLoss, Texts
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import CaSpec, Concept


def loss(model: Denoiser, x: Latents, texts: Texts, spec: CaSpec) -> Tensor:
    """x: noised latents of the target; what the network should predict of them, `x.target`, is read by the
    prior term alone. Scalar out.
    """
    weights = model.schedule.weights(x.t, spec.space)
    with model.frozen() if spec.anchor_network == "frozen" else nullcontext(), torch.no_grad():
        wanted = model.predict(x.z, x.t, texts.target_or_empty)
    if x.target is None or not spec.prior_weight:
        return error(model.predict(x.z, x.t, texts.asked), wanted, weights)
    new = model.predict(*cat(x, x), Text.cat([texts.asked, texts.target_or_empty]))
    new_c, new_t = new.chunk(2)
    return error(new_c, wanted, weights) + spec.prior_weight * error(new_t, x.target, weights)


class Ca(SingleLoss[CaSpec]):
    """Latents are noised pictures of the target; where the user gives none, it is the nearest concept of the
    model's vocabulary.
    """

    def __init__(self, run: Run[CaSpec]) -> None:
        super().__init__(run, loss, holds=False)

    def target_of(self, concept: Concept) -> str:
        return concept.target or candidates(self.run.model, concept, self.run.concepts, 1)[0]

    def prefill(self) -> None:
        run = self.run
        self.keys = [f"anchor/{name}" for name in self.target_names]
        pairs = zip(self.keys, self.targets, strict=True)
        self.pictured = {key: texts for key, texts in pairs if texts is not None}
        run.trajectories.prefill(self.pictured, run.spec.pictures, run.callback, clean=True)

    def latents(self, i: int, g: Generator) -> Latents:
        key, spec = self.keys[i], self.run.spec
        return self.run.trajectories.noised(key, self.pictured[key], g, spec.batch_size, spec.pictures)


METHOD = Ca

"""CA, Ablating Concepts in Text-to-Image Diffusion Models (Kumari et al., ICCV 2023).

|eps'(z_t, c) - sg[eps'(z_t, c_anchor)]|^2  +  prior_weight |eps'(z_t, c_anchor) - noise|^2,   z_t = noised
pictures of the anchor

The anchor's pictures are drawn by the base model first: the authors' thousand photographs of a class are here
`pictures` clean latents of the anchor. Its prediction is the *current* network's, with the gradient stopped,
as in the authors' code.
"""

from contextlib import nullcontext

import torch
from torch import Generator, Tensor

from expunge.core.concepts import candidates
from expunge.core.erasure.loop import Run
from expunge.core.erasure.losses import Latents, cat, error
from expunge.core.erasure.single_loss import Single, Texts
from expunge.core.models import Denoiser
from expunge.core.specs import CaSpec, Concept


def loss(model: Denoiser, x: Latents, texts: Texts, spec: CaSpec, noise: Tensor | None = None) -> Tensor:
    """x: noised latents of the anchor; noise (B, 4, h, w), what was added, is asked for by the prior term
    alone. Scalar out.
    """
    with model.frozen() if spec.anchor_network == "frozen" else nullcontext(), torch.no_grad():
        anchor = model.predict(x.z, x.t, texts.anchor)
    if noise is None or not spec.prior_weight:
        return error(model.predict(x.z, x.t, texts.concept), anchor, model.alphas[x.t], spec.space)
    new_c, new_a = model.predict(*cat(x, x), torch.cat([texts.concept, texts.anchor])).chunk(2)
    prior = error(new_a, noise, model.alphas[x.t], spec.space)
    return error(new_c, anchor, model.alphas[x.t], spec.space) + spec.prior_weight * prior


class Ca(Single[CaSpec]):
    """Latents are noised pictures of the anchor; without a target the anchor is the nearest concept of the
    model's vocabulary.
    """

    def __init__(self, run: Run[CaSpec]) -> None:
        super().__init__(run, self.with_noise)

    def target(self, concept: Concept) -> str:
        return concept.target or candidates(self.run.model, concept, self.run.concepts, 1)[0]

    def prefill(self) -> None:
        self.keys = [f"anchor/{name}" for name in self.named]
        self.anchors = {
            key: states for key, states in zip(self.keys, self.targets, strict=True) if states is not None
        }
        self.run.trajectories.prefill(self.anchors, self.run.spec.pictures, self.run.callback, clean=True)

    def latents(self, i: int, g: Generator) -> Latents:
        key, spec = self.keys[i], self.run.spec
        return self.run.trajectories.noised(key, self.anchors[key], g, spec.batch_size, spec.pictures)

    def with_noise(self, model: Denoiser, x: Latents, texts: Texts, spec: CaSpec) -> Tensor:
        return loss(model, x, texts, spec, x.noise)

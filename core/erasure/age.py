"""AGE, Fantastic Targets for Concept Erasure in Diffusion Models (Bui et al., ICLR 2025), Eq. 14.

min over theta', max over c_t:  |eps'(c_e) - eps(c_t)|^2  +  lambda |eps'(c_t) - eps(c_t)|^2

`paper` follows Eq. 14: both terms drive the search. `authors_code` follows their script: errors in x0, and the target
detached wherever the frozen net reads it, so that only the second term gives pi a gradient. `eta` pushes away from c_e.
"""

import torch
from torch import Tensor

from core.concepts import candidates
from core.erasure.adversarial import Adversarial, Draw
from core.erasure.batch import Latents, cat, error, guided_away
from core.erasure.loop import Run
from core.models import StableDiffusion
from core.specs import AgeSpec, Concept


def resolved(spec: AgeSpec) -> AgeSpec:
    """The spec with what its variant fixes: the authors' code measures errors in x0."""
    return spec.model_copy(update={"space": "x0"}) if spec.variant == "authors_code" else spec


def loss(model: StableDiffusion, x_e: Latents, x_t: Latents, concept: Tensor, target: Tensor, spec: AgeSpec) -> Tensor:
    """What theta' descends. x_e, x_t: latents of the concept and of the target; concept, target: (B, L, D); scalar out."""
    eta, (z, t) = spec.eta, cat(x_e, x_t)
    with model.frozen(), torch.no_grad():
        if eta:
            eps_t, eps_p, eps_c = model.predict(torch.cat([z, x_e.z]), torch.cat([t, x_e.t]), torch.cat([target, target, concept])).chunk(3)
        else:
            eps_t, eps_p = model.predict(z, t, torch.cat([target, target])).chunk(2)
            eps_c = eps_t
    new_c, new_t = model.predict(z, t, torch.cat([concept, target])).chunk(2)
    erase = error(new_c, guided_away(eps_t, eps_c, eta), model.alphas[x_e.t], spec.space)
    return erase + spec.preserve_weight * error(new_t, eps_p, model.alphas[x_t.t], spec.space)


def search_objective(model: StableDiffusion, x_e: Latents, x_t: Latents, concept: Tensor, target: Tensor, spec: AgeSpec) -> Tensor:
    """What pi climbs through `target` (B, L, D): the same two terms. theta' is read, never trained, here."""
    eta, (z, t) = spec.eta, cat(x_e, x_t)
    through = spec.variant == "paper"
    with model.frozen():
        with torch.set_grad_enabled(through):
            eps_t, eps_p = model.predict(z, t, torch.cat([target, target])).chunk(2)
        with torch.no_grad():
            eps_c = model.predict(x_e.z, x_e.t, concept) if eta else eps_t.detach()
    with torch.no_grad():
        new_c = model.predict(x_e.z, x_e.t, concept)
    new_t = model.predict(x_t.z, x_t.t, target)
    erase = error(new_c, guided_away(eps_t, eps_c, eta), model.alphas[x_e.t], spec.space)
    return erase + spec.preserve_weight * error(new_t, eps_p, model.alphas[x_t.t], spec.space)


class Age(Adversarial[AgeSpec]):
    """The target itself is searched; a user's target leaves nothing to search."""

    def __init__(self, run: Run[AgeSpec]) -> None:
        run.spec = resolved(run.spec)
        super().__init__(run)

    def space(self, concept: Concept) -> list[str]:
        if concept.target:
            return [concept.target]
        return candidates(self.run.model, concept, self.run.concepts, self.spec.candidates, self.spec.concept_space)

    def loss(self, draw: Draw) -> Tensor:
        return loss(self.run.model, draw.x_e, draw.x_f, draw.concept, draw.found, self.spec)

    def objective(self, draw: Draw) -> Tensor:
        return search_objective(self.run.model, draw.x_e, draw.x_f, draw.concept, draw.found, self.spec)

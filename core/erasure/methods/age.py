"""AGE, Fantastic Targets for Concept Erasure in Diffusion Models (Bui et al., ICLR 2025), Eq. 14.

min over theta', max over c_t:  |eps'(c_e) - eps(c_t)|^2  +  lambda |eps'(c_t) - eps(c_t)|^2

`paper` follows Eq. 14: both terms drive the search. `authors_code` follows their script: errors in x0, and
the target detached wherever the frozen net reads it, so that only the second term gives pi a gradient. `eta`
pushes away from c_e.

A user's target (editing, Eq. 17) fixes the first term's c_t; the search then ranges over the second term's,
the target and the concept's neighbours, so that what the edit would take along is held (that is AP's loss,
Eq. 9).

Debiasing (Eq. 17) is the same loss, eta = 0, with c_t drawn from the concept's attributes by the shares asked
for, so that each is reached. Both terms are measured on the drawn attribute's own latents: the eps' that
minimises the first is then the noise prediction of the mixture of all attributes. On the concept's latents it
would be their mean, which draws hybrids. The choice of latents is ours.
"""

from typing import Any

import torch
from torch import Tensor

from expunge.core.concepts import attribute_phrases, candidates
from expunge.core.erasure.adversarial import Adversarial, Draw
from expunge.core.erasure.debias.balance import Balance
from expunge.core.erasure.loop import Run
from expunge.core.erasure.losses import Latents, cat, error, guided_away
from expunge.core.erasure.methods import ap
from expunge.core.erasure.search import Shares
from expunge.core.models import Denoiser
from expunge.core.specs import AgeSpec, Concept, same


def resolved(spec: AgeSpec) -> AgeSpec:
    """The spec with what its variant fixes: the authors' code measures errors in x0."""
    return spec.model_copy(update={"space": "x0"}) if spec.variant == "authors_code" else spec


def loss(
    model: Denoiser, x_e: Latents, x_t: Latents, concept: Tensor, target: Tensor, spec: AgeSpec
) -> Tensor:
    """What theta' descends. x_e, x_t: latents of the concept and of the target; concept, target: (B, L,
    D); scalar out.
    """
    eta, (z, t) = spec.eta, cat(x_e, x_t)
    with model.frozen(), torch.no_grad():
        if eta:
            eps_t, eps_p, eps_c = model.predict(
                torch.cat([z, x_e.z]), torch.cat([t, x_e.t]), torch.cat([target, target, concept])
            ).chunk(3)
        else:
            eps_t, eps_p = model.predict(z, t, torch.cat([target, target])).chunk(2)
            eps_c = eps_t
    new_c, new_t = model.predict(z, t, torch.cat([concept, target])).chunk(2)
    erase = error(new_c, guided_away(eps_t, eps_c, eta), model.alphas[x_e.t], spec.space)
    return erase + spec.preserve_weight * error(new_t, eps_p, model.alphas[x_t.t], spec.space)


def search_objective(
    model: Denoiser, x_e: Latents, x_t: Latents, concept: Tensor, target: Tensor, spec: AgeSpec
) -> Tensor:
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
    """The target itself is searched; beside a user's target, what must be held."""

    def __init__(self, run: Run[AgeSpec]) -> None:
        run.spec = resolved(run.spec)
        super().__init__(run)
        self.anchors = [run.contexts([c.target]) if c.target else None for c in run.concepts]
        self.balance = Balance(run, {i: s for i, s in enumerate(self.searches) if isinstance(s, Shares)})

    def space(self, concept: Concept) -> list[str]:
        if concept.attributes:
            return attribute_phrases(concept, self.run.model.vocabulary)
        run, spec = self.run, self.spec
        found = candidates(
            run.model, concept, run.concepts, spec.candidates, spec.concept_space, run.callback
        )
        if concept.target is None:
            return found
        return [concept.target, *(name for name in found if not same(name, concept.target))]

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        self.balance.before(step)
        return super().step(i, step)

    def finish(self) -> dict[str, Any]:
        return super().finish() | self.balance.finish()

    def state(self) -> dict[str, Tensor]:
        return super().state() | self.balance.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self.balance.load_state(state)

    def loss(self, draw: Draw) -> Tensor:
        model, anchors = self.run.model, self.anchors[draw.i]
        if anchors is not None:
            return ap.loss(
                model,
                draw.x_e,
                draw.x_f,
                draw.concept,
                anchors[draw.row % len(anchors)],
                draw.found,
                self.spec,
            )
        spec = (
            self.spec.model_copy(update={"eta": 0.0})
            if isinstance(self.searches[draw.i], Shares)
            else self.spec
        )
        return loss(model, draw.x_e, draw.x_f, draw.concept, draw.found, spec)

    def objective(self, draw: Draw) -> Tensor:
        if self.anchors[draw.i] is not None:
            return ap.search_objective(self.run.model, draw.x_f, draw.found, self.spec)
        return search_objective(self.run.model, draw.x_e, draw.x_f, draw.concept, draw.found, self.spec)

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

from expunge.core.concepts import candidates
from expunge.core.erasure.adversarial import Adversarial, Draw
from expunge.core.erasure.debias.balance import Balance
from expunge.core.erasure.debias.spread import Spread
from expunge.core.erasure.losses import error, guided_away
from expunge.core.erasure.method import Run
from expunge.core.erasure.methods import ap
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import AgeSpec, Concept, same


def resolved(spec: AgeSpec) -> AgeSpec:
    """The spec with what its variant fixes: the authors' code measures errors in x0."""
    return spec.model_copy(update={"space": "x0"}) if spec.variant == "authors_code" else spec


def loss(
    model: Denoiser,
    x_e: Latents,
    x_t: Latents,
    concept: Text,
    target: Text,
    spec: AgeSpec,
    asked: Text | None = None,
) -> Tensor:
    """What theta' descends. x_e, x_t: latents of the concept and of the target; concept, target: B texts;
    asked: what theta' is asked in the concept's place, where that is another text. Scalar out.
    """
    eta, (z, t) = spec.eta, cat(x_e, x_t)
    with model.frozen(), torch.no_grad():
        if eta:
            both, at = cat(x_e, x_t, x_e)
            old = model.predict(both, at, Text.cat([target, target, concept]))
            old_t, old_p, old_c = old.chunk(3)
        else:
            old_t, old_p = model.predict(z, t, Text.cat([target, target])).chunk(2)
            old_c = old_t
    new_c, new_t = model.predict(z, t, Text.cat([concept if asked is None else asked, target])).chunk(2)
    return terms(model, x_e, x_t, new_c, guided_away(old_t, old_c, eta), new_t, old_p, spec)


def search_objective(
    model: Denoiser, x_e: Latents, x_t: Latents, concept: Text, target: Text, spec: AgeSpec
) -> Tensor:
    """What pi climbs through `target`, B texts: the same two terms. theta' is read, never trained, here."""
    eta, (z, t) = spec.eta, cat(x_e, x_t)
    through = spec.variant == "paper"
    with model.frozen():
        with torch.set_grad_enabled(through):
            old_t, old_p = model.predict(z, t, Text.cat([target, target])).chunk(2)
        with torch.no_grad():
            old_c = model.predict(x_e.z, x_e.t, concept) if eta else old_t.detach()
    with torch.no_grad():
        new_c = model.predict(x_e.z, x_e.t, concept)
    new_t = model.predict(x_t.z, x_t.t, target)
    return terms(model, x_e, x_t, new_c, guided_away(old_t, old_c, eta), new_t, old_p, spec)


def terms(
    model: Denoiser,
    x_e: Latents,
    x_t: Latents,
    new_c: Tensor,
    wanted: Tensor,
    new_t: Tensor,
    old_t: Tensor,
    spec: AgeSpec,
) -> Tensor:
    """Eq. 14 of predictions (B, C, h, w): the concept's against what is wanted of it, the target's against
    its old one.
    """
    weights = model.schedule.weights
    erase = error(new_c, wanted, weights(x_e.t, spec.space))
    return erase + spec.preserve_weight * error(new_t, old_t, weights(x_t.t, spec.space))


class Age(Adversarial[AgeSpec]):
    """The target itself is searched; beside a user's target, what must be held."""

    def __init__(self, run: Run[AgeSpec]) -> None:
        run.spec = resolved(run.spec)
        self.spread = Spread(run)
        super().__init__(run)
        self.targets = [run.texts([c.target]) if c.target else None for c in run.concepts]
        self.balance = Balance(run, self.spread.shares)

    def is_searched(self, i: int) -> bool:
        return i not in self.spread.shares

    def whole_buffers(self) -> dict[str, Text]:
        return super().whole_buffers() | self.spread.buffers()

    def space(self, concept: Concept) -> list[str]:
        run, spec = self.run, self.spec
        near = candidates(run.model, concept, run.concepts, spec.candidates, spec.concept_space, run.callback)
        if concept.target is None:
            return near
        return [concept.target, *(name for name in near if not same(name, concept.target))]

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        self.balance.before(step)
        if self.is_searched(i):
            return super().step(i, step)
        g = self.run.generator(step)
        with torch.no_grad():
            draw = self.spread.batch(i, self.concepts[i], g, self.spec.batch_size)
        spec = self.spec.model_copy(update={"eta": 0.0})
        total = loss(self.run.model, draw.x_concept, draw.x_picked, draw.concept, draw.picked, spec)
        return self.with_held(total, g), draw.name

    def held(self) -> list[str] | None:
        spread = [name for shares in self.spread.shares.values() for name in shares.names]
        targets = [c.target for c in self.run.concepts if c.target]
        return [*(super().held() or []), *targets, *spread]

    def loss(self, draw: Draw) -> Tensor:
        model, target, spec = self.run.model, self.targets[draw.i], self.spec
        if target is None:
            return loss(model, draw.x_concept, draw.x_picked, draw.concept, draw.picked, spec, draw.asked)
        rows, x_e, x_t = target[draw.row % len(target)], draw.x_concept, draw.x_picked
        return ap.loss(model, x_e, x_t, draw.concept, rows, draw.picked, spec, draw.asked)

    def objective(self, draw: Draw) -> Tensor:
        model, spec = self.run.model, self.spec
        if self.targets[draw.i] is not None:
            return ap.search_objective(model, draw.x_picked, draw.picked, spec)
        return search_objective(model, draw.x_concept, draw.x_picked, draw.concept, draw.picked, spec)

    def finish(self) -> dict[str, Any]:
        return super().finish() | self.balance.finish()

    def state(self) -> dict[str, Tensor]:
        return super().state() | self.spread.state() | self.balance.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self.spread.load_state(state)
        self.balance.load_state(state)


METHOD = Age

"""AP, Erasing Undesirable Concepts with Adversarial Preservation (Bui et al., NeurIPS 2024), Eq. 9.

min over theta', max over c_a:  |eps'(c_e) - eps(c_t)|^2  +  lambda |eps'(c_a) - eps(c_a)|^2

c_t is fixed (the user's target or the empty prompt); c_a is what would suffer most. `paper` climbs the whole
difference; `authors_code` measures errors in x0 and gives the search a gradient through theta' alone. The
search is a Gumbel-softmax over the candidates (Eq. 10-12), or normalised gradient ascent on a continuous text
state that starts at c_e ("PGD": neither the paper nor the authors' code projects).
"""

import torch
from torch import Tensor

from expunge.core.concepts import anchor, candidates
from expunge.core.erasure.adversarial import Adversarial, Draw
from expunge.core.erasure.loop import Run
from expunge.core.erasure.losses import Latents, cat, error, guided_away
from expunge.core.erasure.search import Ascent, Search
from expunge.core.models import Denoiser
from expunge.core.specs import AgeSpec, ApSpec, Concept


def loss(
    model: Denoiser,
    x_e: Latents,
    x_a: Latents,
    concept: Tensor,
    anchor: Tensor,
    adversary: Tensor,
    spec: ApSpec | AgeSpec,
) -> Tensor:
    """What theta' descends. x_e, x_a: latents of the concept and of c_a; concept, anchor, adversary: (B,
    L, D); scalar out.
    """
    z, t = cat(x_e, x_a)
    with model.frozen(), torch.no_grad():
        eps_t, eps_c, eps_a = model.predict(
            *cat(x_e, x_e, x_a), torch.cat([anchor, concept, adversary])
        ).chunk(3)
    new_c, new_a = model.predict(z, t, torch.cat([concept, adversary])).chunk(2)
    erase = error(new_c, guided_away(eps_t, eps_c, spec.eta), model.alphas[x_e.t], spec.space)
    return erase + spec.preserve_weight * error(new_a, eps_a, model.alphas[x_a.t], spec.space)


def search_objective(model: Denoiser, x_a: Latents, adversary: Tensor, spec: ApSpec | AgeSpec) -> Tensor:
    """What the search climbs through `adversary` (B, L, D): how far c_a has drifted. theta' is read, never
    trained, here.
    """
    with model.frozen(), torch.set_grad_enabled(spec.variant == "paper"):
        old = model.predict(x_a.z, x_a.t, adversary)
    return error(model.predict(x_a.z, x_a.t, adversary), old, model.alphas[x_a.t], spec.space)


class Ap(Adversarial[ApSpec]):
    """The neighbours are searched; the anchor is fixed."""

    def __init__(self, run: Run[ApSpec]) -> None:
        if run.spec.variant == "authors_code":
            run.spec = run.spec.model_copy(update={"space": "x0"})
        super().__init__(run)
        self.anchors = [run.goal(c, anchor(run.model, c, run.concepts)) for c in run.concepts]

    def space(self, concept: Concept) -> list[str]:
        run, spec = self.run, self.spec
        return candidates(run.model, concept, run.concepts, spec.candidates, spec.concept_space, run.callback)

    def search(self, concept: Concept, names: list[str], states: Tensor) -> Search | Ascent:
        if self.spec.search == "pgd":
            return Ascent(names, states, self.run.contexts([concept.name]), self.spec.search_learning_rate)
        return super().search(concept, names, states)

    def loss(self, draw: Draw) -> Tensor:
        anchor = self.anchors[draw.i][draw.row % len(self.anchors[draw.i])]
        return loss(self.run.model, draw.x_e, draw.x_f, draw.concept, anchor, draw.found, self.spec)

    def objective(self, draw: Draw) -> Tensor:
        return search_objective(self.run.model, draw.x_f, draw.found, self.spec)

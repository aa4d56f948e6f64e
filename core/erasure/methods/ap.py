"""AP, Erasing Undesirable Concepts with Adversarial Preservation (Bui et al., NeurIPS 2024), Eq. 9.

min over theta', max over c_a:  |eps'(c_e) - eps(c_t)|^2  +  lambda |eps'(c_a) - eps(c_a)|^2

c_t is fixed (the user's target or the empty prompt); c_a is what would suffer most. `paper` climbs the whole
difference; `authors_code` measures errors in x0 and gives the search a gradient through theta' alone. The
search is a Gumbel-softmax over the candidates (Eq. 10-12), or normalised gradient ascent on a continuous text
state that starts at c_e ("PGD": neither the paper nor the authors' code projects).
"""

import torch
from torch import Tensor

from expunge.core.concepts import candidates, resolve_target
from expunge.core.erasure.adversarial import Adversarial, Draw
from expunge.core.erasure.losses import error, guided_away
from expunge.core.erasure.method import Run
from expunge.core.erasure.search import Ascent, Search
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import AgeSpec, ApSpec, Concept


def loss(
    model: Denoiser,
    x_e: Latents,
    x_a: Latents,
    concept: Text,
    target: Text,
    adversary: Text,
    spec: ApSpec | AgeSpec,
    asked: Text | None = None,
) -> Tensor:
    """What theta' descends. x_e, x_a: latents of the concept and of c_a; concept, target, adversary: B texts;
    asked: what theta' is asked in the concept's place, where that is another text. Scalar out.
    """
    weights = model.schedule.weights
    with model.frozen(), torch.no_grad():
        old = model.predict(*cat(x_e, x_e, x_a), Text.cat([target, concept, adversary]))
        old_t, old_c, old_a = old.chunk(3)
    new_c, new_a = model.predict(
        *cat(x_e, x_a), Text.cat([concept if asked is None else asked, adversary])
    ).chunk(2)
    erase = error(new_c, guided_away(old_t, old_c, spec.eta), weights(x_e.t, spec.space))
    return erase + spec.preserve_weight * error(new_a, old_a, weights(x_a.t, spec.space))


def search_objective(model: Denoiser, x_a: Latents, adversary: Text, spec: ApSpec | AgeSpec) -> Tensor:
    """What the search climbs through `adversary`, B texts: how far c_a has drifted. theta' is read, never
    trained, here.
    """
    with model.frozen(), torch.set_grad_enabled(spec.variant == "paper"):
        old = model.predict(x_a.z, x_a.t, adversary)
    new = model.predict(x_a.z, x_a.t, adversary)
    return error(new, old, model.schedule.weights(x_a.t, spec.space))


class Ap(Adversarial[ApSpec]):
    """The neighbours are searched; the target is fixed."""

    def __init__(self, run: Run[ApSpec]) -> None:
        if run.spec.variant == "authors_code":
            run.spec = run.spec.model_copy(update={"space": "x0"})
        super().__init__(run)
        self.target_names = [resolve_target(run.model, c, run.concepts) for c in run.concepts]
        pairs = zip(run.concepts, self.target_names, strict=True)
        self.targets = [run.target_texts(c, name) for c, name in pairs]

    def space(self, concept: Concept) -> list[str]:
        run, spec = self.run, self.spec
        return candidates(run.model, concept, run.concepts, spec.candidates, spec.concept_space, run.callback)

    def search(self, concept: Concept, names: list[str], texts: Text) -> Search | Ascent:
        if self.spec.search == "pgd":
            return Ascent(names, texts, self.run.texts([concept.name]), self.spec.search_learning_rate)
        return super().search(concept, names, texts)

    def held(self) -> list[str] | None:
        return [*(super().held() or []), *self.target_names]

    def loss(self, draw: Draw) -> Tensor:
        target = self.targets[draw.i]
        rows = target[draw.row % len(target)]
        model = self.run.model
        x_e, x_a, asked = draw.x_concept, draw.x_picked, draw.asked
        return loss(model, x_e, x_a, draw.concept, rows, draw.picked, self.spec, asked)

    def objective(self, draw: Draw) -> Tensor:
        return search_objective(self.run.model, draw.x_picked, draw.picked, self.spec)


METHOD = Ap

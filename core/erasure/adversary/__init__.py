"""An adversary in the loop: what brings an erased concept back is searched for on the model as it stands, and
then stands in the concept's place in the method's own loss. One mechanism for every output-based method.
"""

from typing import Any

from torch import Tensor

from expunge.core.erasure.adversary.noise import Noise
from expunge.core.erasure.adversary.words import Words
from expunge.core.erasure.method import Method, Purpose, Run
from expunge.core.erasure.retained_concepts import Retained, retained
from expunge.core.sampling import tensors_under
from expunge.core.specs import AdversarySpec


class Defended(Method[Any]):
    """A method that goes on against an adversary once its own steps are done.

    own_steps: the method's own optimiser steps, of all concepts together.
    """

    def __init__(self, run: Run[Any], inner: Method[Any], spec: AdversarySpec, own_steps: int) -> None:
        super().__init__(run)
        self.inner, self.spec, self.own = inner, spec, own_steps
        self.adversary = Noise(run, spec) if spec.kind == "noise" else Words(run, spec)
        names = retained(run, spec.retain_concepts, Purpose.ADVERSARY_RETAINED)
        self.kept = Retained(run, names, Purpose.ADVERSARY_RETAINED)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        if step < self.own:
            return self.inner.step(i, step)
        turn = (step - self.own) // (self.spec.steps * len(self.run.concepts))
        self.adversary.prepare(i, turn)
        self.run.adversary = self.adversary
        try:
            loss, target = self.inner.step(i, step)
        finally:
            self.run.adversary = None
        return loss + self.spec.retain_weight * self.kept.drift(step), target

    def held(self) -> list[str] | None:
        inner = self.inner.held()
        return None if inner is None else [*inner, *self.kept.texts]

    def state(self) -> dict[str, Tensor]:
        inner = {f"inner.{k}": v for k, v in self.inner.state().items()}
        return inner | {f"adversary.{k}": v for k, v in self.adversary.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.inner.load_state(tensors_under(state, "inner."))
        self.adversary.load_state(tensors_under(state, "adversary."))

    def finish(self) -> dict[str, Any]:
        return self.inner.finish()

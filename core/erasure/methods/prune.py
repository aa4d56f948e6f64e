"""Pruning for robust concept erasing (P-ESD, P-AC; Yang et al., arXiv 2405.16534). A reconstruction: no
public code was found.

min over m:  L(theta * m)  +  beta E[share of zeros]  +  lambda_p |eps'(c_p) - eps(c_p)|^2,   m in {0, 1} for
each weight

L is any output-based method's loss, taken as it is: it sees the masked network as eps' and, with the masks
off, the base model as eps.
"""

from typing import Any

from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.loop import fine_tune
from expunge.core.erasure.method import Method, Purpose, Run
from expunge.core.erasure.registry import method_of
from expunge.core.erasure.retained_concepts import Retained, retained
from expunge.core.models import Denoiser
from expunge.core.models.masks import Masks
from expunge.core.progress import Callback
from expunge.core.sampling import tensors_under
from expunge.core.specs import EraseSpec, PruneSpec


class Prune(Method[Any]):
    """An output-based method around a mask."""

    def __init__(self, run: Run[Any], inner: Method[Any], spec: PruneSpec) -> None:
        super().__init__(run)
        self.inner, self.spec = inner, spec
        names = retained(run, spec.retain_concepts, Purpose.STRANGERS)
        self.kept = Retained(run, names, Purpose.HELD)

    @property
    def masks(self) -> Masks:
        assert self.run.model.masks is not None
        return self.run.model.masks

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        self.masks.draw(self.run.generator(step, Purpose.MASK_NOISE))
        loss, target = self.inner.step(i, step)
        total = loss + self.spec.sparsity_weight * self.masks.expected_share()
        return total + self.spec.preserve_weight * self.kept.drift(step), target

    def held(self) -> list[str] | None:
        inner = self.inner.held()
        return None if inner is None else [*inner, *self.kept.texts]

    def state(self) -> dict[str, Tensor]:
        return {f"inner.{k}": v for k, v in self.inner.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.inner.load_state(tensors_under(state, "inner."))

    def finish(self) -> dict[str, Any]:
        self.masks.harden()
        pruned, size = self.masks.pruned(), self.masks.size()
        return self.inner.finish() | {"pruned": pruned, "prunable": size, "sparsity": pruned / size}


def edit(
    model: Denoiser,
    request: EraseSpec,
    spec: PruneSpec,
    callback: Callback,
    checkpoints: Checkpoints | None,
) -> Delta:
    """Learn the mask on the shared loop; the model wears it afterwards."""
    inner = spec.method.model_copy(update={"steps": spec.steps})

    def method(run: Run[Any]) -> Prune:
        return Prune(run, method_of(inner)(run), spec)

    return fine_tune(model, request, inner, method, callback, checkpoints, trains=spec)

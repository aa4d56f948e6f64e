"""Pruning for robust concept erasing (P-ESD, P-AC; Yang et al., arXiv 2405.16534). A reconstruction: no
public code was found.

min over m:  L(theta * m)  +  beta E[share of zeros]  +  lambda_p |eps'(c_p) - eps(c_p)|^2,   m in {0, 1} for
each weight

L is any output-based method's loss, taken as it is: it sees the masked network as eps' and, with the masks
off, the base model as eps.
"""

from typing import Any

import torch
from torch import Tensor

from expunge.core.erasure.delta import Delta
from expunge.core.erasure.loop import Method, Run, fine_tune
from expunge.core.erasure.losses import error
from expunge.core.erasure.output_based import method_of
from expunge.core.erasure.retained_concepts import retained
from expunge.core.erasure.trajectory_buffer import part
from expunge.core.models import Denoiser
from expunge.core.models.masks import Masks
from expunge.core.progress import Callback, Checkpoints
from expunge.core.specs import EraseSpec, PruneSpec

NOISE, HELD, STRANGERS = 4, 5, 6
"""The purposes of this method's draws, beside the methods' own."""


class Prune:
    """An output-based method around a mask."""

    def __init__(self, run: Run[Any], inner: Method, spec: PruneSpec) -> None:
        self.run, self.inner, self.spec = run, inner, spec
        self.kept = {
            name: run.contexts([name]) for name in ["", *retained(run, spec.retain_concepts, STRANGERS)]
        }
        if run.spec.latents == "buffer":
            run.trajectories.prefill(
                {f"retain/{n}": c for n, c in self.kept.items()}, self.each, run.callback
            )

    @property
    def masks(self) -> Masks:
        assert self.run.model.masks is not None
        return self.run.model.masks

    @property
    def each(self) -> int:
        """Trajectories a retained concept keeps: a few each, for there are many."""
        return max(1, int(self.run.spec.trajectories) // 4)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        self.masks.draw(self.run.generator(step, NOISE))
        loss, target = self.inner.step(i, step)
        total = loss + self.spec.sparsity_weight * self.masks.expected_share()
        return total + self.spec.preserve_weight * self.drift(step), target

    def drift(self, step: int) -> Tensor:
        """|eps'(c_p) - eps(c_p)|^2 on one retained concept."""
        run, g, size = self.run, self.run.generator(step, HELD), self.run.spec.batch_size
        name = list(self.kept)[int(torch.randint(len(self.kept), (1,), generator=g))]
        contexts = self.kept[name]
        x = run.trajectories.draw(f"retain/{name}", contexts, g, size, self.each)
        context = contexts[torch.randint(len(contexts), (size,), generator=g)]
        with run.model.frozen(), torch.no_grad():
            old = run.model.predict(x.z, x.t, context)
        return error(run.model.predict(x.z, x.t, context), old, run.model.alphas[x.t], run.spec.space)

    def state(self) -> dict[str, Tensor]:
        return {f"inner.{k}": v for k, v in self.inner.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.inner.load_state(part(state, "inner."))

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

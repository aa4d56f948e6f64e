"""ESD, Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023)."""

import torch
from torch import Tensor

from core.erasure.batch import Latents, error, guided_away
from core.erasure.loop import Run
from core.models import StableDiffusion
from core.specs import EsdSpec


def loss(model: StableDiffusion, x: Latents, concept: Tensor, anchor: Tensor, spec: EsdSpec) -> Tensor:
    """Pull eps'(z, c) to eps(z, a) - eta [eps(z, c) - eps(z, a)], a = the empty prompt or the user's target.

    x: z (B, 4, h, w), t (B,); concept and anchor: (B, L, D); scalar out. Gradient reaches theta' alone.
    """
    with model.frozen(), torch.no_grad():
        eps_a, eps_c = model.predict(torch.cat([x.z, x.z]), torch.cat([x.t, x.t]), torch.cat([anchor, concept])).chunk(2)
    return error(model.predict(x.z, x.t, concept), guided_away(eps_a, eps_c, spec.eta), model.alphas[x.t], spec.space)


class Esd:
    """One step: latents of the concept, one loss."""

    def __init__(self, run: Run[EsdSpec]) -> None:
        self.run = run
        self.contexts = [run.contexts(words) for words in run.words]
        self.anchors = [run.contexts([c.target or ""]) for c in run.concepts]
        self.keys = [f"erase/{i}" for i in range(len(run.concepts))]
        if run.spec.latents == "buffer":
            run.trajectories.prefill(dict(zip(self.keys, self.contexts, strict=True)), run.spec.trajectories, run.callback)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec = self.run, self.run.spec
        g = run.generator(step)
        x = run.trajectories.draw(self.keys[i], self.contexts[i], g, spec.batch_size, spec.trajectories)
        row = torch.randint(len(self.contexts[i]), (spec.batch_size,), generator=g)
        anchor = self.anchors[i][row % len(self.anchors[i])]
        return loss(run.model, x, self.contexts[i][row], anchor, spec), run.concepts[i].target

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None: ...

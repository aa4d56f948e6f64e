"""KPOP, Hiding and Recovering Knowledge via Learnable Prompts (Bui et al., ICLR 2025 Delta workshop), Eq. 15
and 16; a reconstruction.

Stage 1, hiding:    min over theta'                |eps'(c_e) - eps(c_t)|^2  +  lambda |eps'(c_e, p) -
eps(c_e)|^2 Stage 2, recovery:  p = argmin over |p - c_e| <= rho                            |eps'(c_e, p) -
eps(c_e)|^2

(c, p) is the prompt's text states with p appended: L tokens become L + m, and the network's code stays as it
is. The two stages alternate, step by step, on one draw of the concept's latents. The first term is any
output-based method's; AGE's finds c_t.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from expunge.core.erasure.loop import Method, Run
from expunge.core.erasure.losses import Latents, error
from expunge.core.erasure.search import Gradients
from expunge.core.erasure.trajectory_buffer import part
from expunge.core.models import Denoiser, with_key
from expunge.core.specs import FineTuneSpec, RecoverySpec

RECOVERY, START = 2, 3
"""The purposes of stage 2's draws and of the key's start, beside the methods' own 0 and 1."""


def anchor(model: Denoiser, name: str, length: int) -> Tensor:
    """c_e of Eq. 16, the centre of the key's ball: the text states of the bare name after its begin token,
    (m, D).
    """
    states = model.encode([name])[0, 1:]
    return states[torch.arange(length, device=states.device) % len(states)]


def into_ball(p: Tensor, centre: Tensor, radius: float) -> Tensor:
    """The point nearest to p within |p - centre| <= radius, all (m, D)."""
    away = p - centre
    inside: Tensor = centre + away * (radius / away.norm()).clamp_max(1)
    return inside


def recovery_loss(
    model: Denoiser, x: Latents, context: Tensor, p: Tensor, eps: Tensor, spec: FineTuneSpec
) -> Tensor:
    """|eps'(c_e, p) - eps(c_e)|^2, the second term of Eq. 15 and Eq. 16. context (B, L, D), p (m, D), eps (B,
    4, h, w); scalar out.
    """
    return error(model.predict(x.z, x.t, with_key(context, p)), eps, model.alphas[x.t], spec.space)


class Prompt:
    """One concept's p, (m, D), and its projected descent."""

    def __init__(self, centre: Tensor, spec: RecoverySpec, generator: Generator) -> None:
        self.centre, self.radius = centre, spec.radius * float(centre.norm())
        away = torch.randn(centre.shape, generator=generator).to(centre)
        self.p = (centre + spec.start * centre.norm() * away / away.norm()).requires_grad_(True)
        self.optimiser = torch.optim.Adam([self.p], lr=spec.learning_rate)

    def descend(self, loss: Tensor, gradients: Gradients = torch.autograd.grad) -> None:
        """One step down, and back into the ball."""
        (self.p.grad,) = gradients(loss, [self.p])
        self.optimiser.step()
        with torch.no_grad():
            self.p.copy_(into_ball(self.p, self.centre, self.radius))

    def state(self) -> dict[str, Tensor]:
        return {
            "p": self.p.detach(),
            **{k: torch.as_tensor(v) for k, v in self.optimiser.state.get(self.p, {}).items()},
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.p.copy_(state["p"])
        slots = {k: v if k == "step" else v.to(self.p.device) for k, v in state.items() if k != "p"}
        if slots:
            self.optimiser.state[self.p] = slots


class Kpop:
    """Both stages around an erasing method, whose loss is the first term of Eq. 15."""

    def __init__(self, run: Run[Any], hiding: Method, spec: RecoverySpec) -> None:
        self.run, self.hiding, self.spec = run, hiding, spec
        self.contexts = [run.contexts(words) for words in run.words]
        centres = [anchor(run.model, c.name, spec.length) for c in run.concepts]
        self.prompts = [Prompt(centre, spec, run.generator(i, START)) for i, centre in enumerate(centres)]

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, model, prompt, contexts = self.run, self.run.model, self.prompts[i], self.contexts[i]
        g, size = run.generator(step, RECOVERY), run.spec.batch_size
        x = run.trajectories.draw(f"erase/{i}", contexts, g, size, run.spec.trajectories)
        context = contexts[torch.randint(len(contexts), (size,), generator=g)]
        with model.frozen(), torch.no_grad():
            eps = model.predict(x.z, x.t, context)
        for _ in range(self.spec.steps):
            prompt.descend(recovery_loss(model, x, context, prompt.p, eps, run.spec), model.gradients)
        loss, target = self.hiding.step(i, step)
        return (
            loss + self.spec.weight * recovery_loss(model, x, context, prompt.p.detach(), eps, run.spec),
            target,
        )

    def keys(self) -> dict[str, Tensor]:
        """p of each concept, by its name."""
        return {
            c.name: prompt.p.detach().cpu().clone()
            for c, prompt in zip(self.run.concepts, self.prompts, strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        prompts = {
            f"prompt.{i}.{k}": v for i, prompt in enumerate(self.prompts) for k, v in prompt.state().items()
        }
        return {f"hiding.{k}": v for k, v in self.hiding.state().items()} | prompts

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.hiding.load_state(part(state, "hiding."))
        for i, prompt in enumerate(self.prompts):
            prompt.load_state(part(state, f"prompt.{i}."))

    def finish(self) -> dict[str, Any]:
        return self.hiding.finish()

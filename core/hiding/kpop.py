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

from expunge.core.concepts.embeddings import name_states
from expunge.core.erasure.losses import error
from expunge.core.erasure.method import Method, Purpose, Run
from expunge.core.erasure.search import Gradients
from expunge.core.models import Denoiser, Text
from expunge.core.optimisers import load_parameter_state, parameter_state
from expunge.core.sampling import Latents, tensors_under
from expunge.core.specs import FineTuneSpec, RecoverySpec


def into_ball(p: Tensor, centre: Tensor, radius: float) -> Tensor:
    """The point nearest to p within |p - centre| <= radius, all (m, D)."""
    away = p - centre
    inside: Tensor = centre + away * (radius / away.norm()).clamp_max(1)
    return inside


def recovery_loss(
    model: Denoiser, x: Latents, text: Text, p: Tensor, old: Tensor, spec: FineTuneSpec
) -> Tensor:
    """|eps'(c_e, p) - eps(c_e)|^2, the second term of Eq. 15 and Eq. 16: B texts, p (m, D), the base model's
    prediction `old` (B, C, h, w); scalar out.
    """
    new = model.predict(x.z, x.t, text.with_key(p))
    return error(new, old, model.schedule.weights(x.t, spec.space))


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
        """What a resumed run needs: p, and Adam's numbers."""
        return {"p": self.p.detach(), **parameter_state(self.optimiser)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            self.p.copy_(state["p"])
        load_parameter_state(self.optimiser, {k: v for k, v in state.items() if k != "p"})


class Kpop(Method[Any]):
    """Both stages around an erasing method, whose loss is the first term of Eq. 15."""

    def __init__(self, run: Run[Any], hiding: Method[Any], spec: RecoverySpec) -> None:
        super().__init__(run)
        self.hiding, self.spec = hiding, spec
        self.concepts = [run.texts(names) for names in run.names]
        centres = [name_states(run.model, c.name, spec.length) for c in run.concepts]
        self.prompts = [
            Prompt(centre, spec, run.generator(i, Purpose.KEY_START)) for i, centre in enumerate(centres)
        ]

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, model, prompt, texts = self.run, self.run.model, self.prompts[i], self.concepts[i]

        # Stage 2 on this draw: p goes towards what brings the old prediction back.
        g, size = run.generator(step, Purpose.RECOVERY), run.spec.batch_size
        x = run.trajectories.draw(f"erase/{i}", texts, g, size, run.spec.trajectories)
        text = texts[torch.randint(len(texts), (size,), generator=g)]
        with model.frozen(), torch.no_grad():
            old = model.predict(x.z, x.t, text)
        for _ in range(self.spec.steps):
            prompt.descend(recovery_loss(model, x, text, prompt.p, old, run.spec), model.gradients)

        # Stage 1: theta' hides the concept from whoever lacks p.
        loss, target = self.hiding.step(i, step)
        recovery = recovery_loss(model, x, text, prompt.p.detach(), old, run.spec)
        return loss + self.spec.weight * recovery, target

    def keys(self) -> dict[str, Tensor]:
        """p of each concept, by its name."""
        pairs = zip(self.run.concepts, self.prompts, strict=True)
        return {c.name: prompt.p.detach().cpu().clone() for c, prompt in pairs}

    def state(self) -> dict[str, Tensor]:
        state = {f"hiding.{k}": v for k, v in self.hiding.state().items()}
        for i, prompt in enumerate(self.prompts):
            state |= {f"prompt.{i}.{k}": v for k, v in prompt.state().items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.hiding.load_state(tensors_under(state, "hiding."))
        for i, prompt in enumerate(self.prompts):
            prompt.load_state(tensors_under(state, f"prompt.{i}."))

    def held(self) -> list[str] | None:
        return self.hiding.held()

    def finish(self) -> dict[str, Any]:
        return self.hiding.finish()

"""Adversarial search over a finite concept space with the Gumbel-softmax (AP and AGE, Eq. 11-12)."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from expunge.core.models import Text
from expunge.core.optimisers import load_parameter_state, parameter_state

Gradients = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor | None]]
"""How the gradient of an objective is taken: `Denoiser.gradients`, which float16 does not round to zero."""


def gumbel(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Standard Gumbel noise, -log(-log U)."""
    u = torch.rand(shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -torch.log(-torch.log(u))


def gumbel_softmax(logits: Tensor, noise: Tensor, temperature: float, hard: bool) -> Tensor:
    """Eq. 11: softmax((l + g) / tau), (n,); hard: Eq. 12, one-hot forward and soft backward."""
    soft = torch.softmax((logits + noise) / temperature, dim=-1)
    if not hard:
        return soft
    one_hot = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return (one_hot - soft).detach() + soft


class Search:
    """Logits pi over n candidates, whose texts are stacked, (n, T, …); one Adam of their own that climbs."""

    def __init__(
        self, names: list[str], texts: Text, learning_rate: float, temperature: float, hard: bool
    ) -> None:
        self.names, self.texts, self.temperature, self.hard = names, texts, temperature, hard
        # The authors' start
        start = 1 / len(names)
        self.logits = torch.full((len(names),), start, device=texts.states.device, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.logits], lr=learning_rate, maximize=True)

    def sample(self, generator: Generator) -> Tensor:
        """A fresh G(pi), (n,), differentiable in pi."""
        noise = gumbel(self.logits.shape, generator).to(self.logits.device)
        return gumbel_softmax(self.logits, noise, self.temperature, self.hard)

    def text(self, weights: Tensor, template: Tensor) -> Text:
        """G(pi) . R for each row's template: B texts."""
        return self.texts.mixed(weights)[template]

    def ascend(self, objective: Tensor, gradients: Gradients = torch.autograd.grad) -> None:
        """One Adam step of pi up the objective."""
        (self.logits.grad,) = gradients(objective, [self.logits])
        self.optimiser.step()

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: pi, and Adam's numbers."""
        return {"logits": self.logits.detach(), **parameter_state(self.optimiser)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        load_parameter_state(self.optimiser, {k: v for k, v in state.items() if k != "logits"})


class Ascent:
    """AP's continuous search: one text state e for every template, (T, L, D), that climbs e += lr |e| g /
    |g|.

    It starts at the concept's own texts, `start` (T, …); the latents it is tried on are those of the
    candidate, of texts (n, T, …), nearest to it.
    """

    def __init__(self, names: list[str], texts: Text, start: Text, learning_rate: float) -> None:
        self.names, self.texts, self.start, self.learning_rate = names, texts, start, learning_rate
        self.states = start.states.clone().requires_grad_(True)

    def sample(self, _: Generator) -> Tensor:
        """One-hot of the nearest candidate, (n,)."""
        distance = (self.texts.states - self.states.detach()).square().flatten(1).sum(1)
        one_hot = torch.nn.functional.one_hot(distance.argmin(), len(self.names))
        return one_hot.to(self.texts.states.dtype)

    def text(self, _: Tensor, template: Tensor) -> Text:
        """The text for each row's template: B texts."""
        return self.start.with_states(self.states)[template]

    def ascend(self, objective: Tensor, gradients: Gradients = torch.autograd.grad) -> None:
        """One step of normalised gradient ascent, each template by itself."""
        (g,) = gradients(objective, [self.states])
        assert g is not None

        def size(x: Tensor) -> Tensor:
            return x.square().sum((1, 2), keepdim=True).sqrt()

        with torch.no_grad():
            self.states += self.learning_rate * size(self.states) * g / size(g).clamp_min(1e-12)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: e."""
        return {"text": self.states.detach()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            self.states.copy_(state["text"])

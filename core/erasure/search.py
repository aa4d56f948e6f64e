"""Adversarial search over a finite concept space with the Gumbel-softmax (AP and AGE, Eq. 11-12)."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

Gradients = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor | None]]
"""How the gradient of an objective is had: `Denoiser.gradients`, which float16 does not round to
zero.
"""


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
    """Logits pi over candidates whose text states are R, (n, T, L, D); one Adam of their own that climbs."""

    def __init__(
        self, names: list[str], states: Tensor, learning_rate: float, temperature: float, hard: bool
    ) -> None:
        self.names, self.states, self.temperature, self.hard = names, states, temperature, hard
        # The authors' start
        self.logits = torch.full((len(names),), 1 / len(names), device=states.device, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.logits], lr=learning_rate, maximize=True)

    def sample(self, generator: Generator) -> Tensor:
        """A fresh G(pi), (n,), differentiable in pi."""
        return gumbel_softmax(
            self.logits,
            gumbel(self.logits.shape, generator).to(self.logits.device),
            self.temperature,
            self.hard,
        )

    def context(self, weights: Tensor, template: Tensor) -> Tensor:
        """G(pi) . R for each row's template: (B, L, D)."""
        return torch.einsum("n,ntld->tld", weights, self.states)[template]

    def ascend(self, objective: Tensor, gradients: Gradients = torch.autograd.grad) -> None:
        """One Adam step of pi up the objective."""
        (self.logits.grad,) = gradients(objective, [self.logits])
        self.optimiser.step()

    def state(self) -> dict[str, Tensor]:
        slots = self.optimiser.state.get(self.logits, {})
        return {"logits": self.logits.detach(), **{k: torch.as_tensor(v) for k, v in slots.items()}}

    def load_state(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        slots = {k: v.to(self.logits.device) if k != "step" else v for k, v in state.items() if k != "logits"}
        if slots:
            self.optimiser.state[self.logits] = slots


class Ascent:
    """AP's continuous search: one text state e for every template, (T, L, D), that climbs e += lr |e| g /
    |g|.

    It starts at the concept's own states, `start` (T, L, D); the latents it is tried on are those of the
    candidate, of (n, T, L, D), nearest to it.
    """

    def __init__(self, names: list[str], states: Tensor, start: Tensor, learning_rate: float) -> None:
        self.names, self.states, self.learning_rate = names, states, learning_rate
        self.text = start.clone().requires_grad_(True)

    def sample(self, _: Generator) -> Tensor:
        """One-hot of the nearest candidate, (n,)."""
        distance = (self.states - self.text.detach()).square().flatten(1).sum(1)
        return torch.nn.functional.one_hot(distance.argmin(), len(self.names)).to(self.states.dtype)

    def context(self, _: Tensor, template: Tensor) -> Tensor:
        """The text state for each row's template: (B, L, D)."""
        return self.text[template]

    def ascend(self, objective: Tensor, gradients: Gradients = torch.autograd.grad) -> None:
        """One step of normalised gradient ascent, each template by itself."""
        (g,) = gradients(objective, [self.text])
        assert g is not None

        def size(x: Tensor) -> Tensor:
            return x.square().sum((1, 2), keepdim=True).sqrt()

        with torch.no_grad():
            self.text += self.learning_rate * size(self.text) * g / size(g).clamp_min(1e-12)

    def state(self) -> dict[str, Tensor]:
        return {"text": self.text.detach()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.text.copy_(state["text"])


class Shares:
    """No search: how often each candidate is drawn is given, (n,).

    The targets of debiasing, whose text states are (n, T, L, D).
    """

    def __init__(self, names: list[str], states: Tensor, shares: list[float]) -> None:
        self.names, self.states, self.logs = names, states, torch.tensor(shares, dtype=torch.float64).log()

    def pick(self, generator: Generator, size: int) -> Tensor:
        """Candidates of `size` rows, ascending: a systematic sample, so that small batches too keep to the
        shares.
        """
        at = (torch.rand(1, generator=generator, dtype=torch.float64) + torch.arange(size)) / size
        return torch.searchsorted(torch.softmax(self.logs, 0).cumsum(0), at).clamp_max(len(self.names) - 1)

    def move(self, by: Tensor) -> None:
        """Draw each candidate e^by times as often, (n,)."""
        self.logs = self.logs + by

    def state(self) -> dict[str, Tensor]:
        return {"logs": self.logs}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.logs = state["logs"]

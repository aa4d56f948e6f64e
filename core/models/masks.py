"""Sparse masks on the U-Net: W' = W * m, m in {0, 1}. Learned through a relaxation, shipped as packed bits.

Hard concrete (Louizos et al., ICLR 2018), u uniform:  m = clamp((zeta - gamma) sigmoid((log u - log(1 - u) +
a) / beta) + gamma, 0, 1). Straight-through: m = [a > 0] forward, sigmoid(a) backward. Once learned, either is
[a > 0].
"""

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from expunge.core.delta_format import mask as mask_format

GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3  # the paper's stretch and temperature
Relaxation = Literal["straight_through", "hard_concrete"]


class Mask(nn.Module):
    """A parametrization of one weight: what the layer sees is W * m while it is on, else W."""

    def __init__(
        self,
        keep: Tensor | None = None,
        logits: nn.Parameter | None = None,
        relaxation: Relaxation = "straight_through",
    ) -> None:
        super().__init__()
        self.logits, self.relaxation, self.on = logits, relaxation, True
        self.noise: Tensor | None = None
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.gate().to(weight.dtype) if self.on else weight

    def gate(self) -> Tensor:
        """m, of the weight's shape: with its graph while it is learned."""
        if self.logits is None:
            return self.kept()
        if self.relaxation == "straight_through":
            soft = self.logits.sigmoid()
            return (self.kept().to(soft) - soft).detach() + soft
        if self.noise is None:
            return self.kept()
        return (((self.logits + self.noise) / BETA).sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def kept(self) -> Tensor:
        """[a > 0]"""
        if self.logits is None:
            assert isinstance(self.keep, Tensor)
            return self.keep
        return self.logits.detach() > 0

    def expected_pruned(self) -> Tensor:
        """The expected number of zeros, a scalar with its graph."""
        assert self.logits is not None
        shift = BETA * math.log(-GAMMA / ZETA) if self.relaxation == "hard_concrete" else 0.0
        return (shift - self.logits).sigmoid().sum()


class Masks:
    """The masks that a U-Net wears, by layer."""

    def __init__(self, unet: nn.Module, masks: Mapping[str, Mask]) -> None:
        self.unet, self.layers = unet, dict(masks)
        for name, mask in self.layers.items():
            parametrize.register_parametrization(unet.get_submodule(name), "weight", mask)

    @classmethod
    def to_learn(cls, unet: nn.Module, names: list[str], start: float, relaxation: Relaxation) -> "Masks":
        """Masks whose logits all begin at `start`."""
        shapes = {name: unet.get_submodule(name).weight for name in names}
        logits = {n: nn.Parameter(torch.full(w.shape, start, device=w.device)) for n, w in shapes.items()}  # type: ignore[arg-type]
        return cls(unet, {n: Mask(logits=a, relaxation=relaxation) for n, a in logits.items()})

    def parameters(self) -> list[nn.Parameter]:
        return [mask.logits for mask in self.layers.values() if mask.logits is not None]

    def switch(self, on: bool) -> None:
        for mask in self.layers.values():
            mask.on = on

    def draw(self, generator: Generator | None) -> None:
        """Fresh noise for the relaxation, the same until the next draw; None: the mask as it will be shipped.

        It is drawn where the masks are, for they are as large as the network, from the seed of a generator
        that is fresh.
        """
        drawn: Generator | None = None
        for mask in self.layers.values():
            if mask.logits is None or generator is None:
                mask.noise = None
            elif mask.relaxation == "hard_concrete":
                device = mask.logits.device
                drawn = drawn or Generator(device).manual_seed(generator.initial_seed())
                u = torch.rand(mask.logits.shape, generator=drawn, device=device).clamp(1e-6, 1 - 1e-6)
                mask.noise = u.log() - (1 - u).log()

    def expected_share(self) -> Tensor:
        """The expected share of zeros among all masked weights."""
        return torch.stack([m.expected_pruned() for m in self.layers.values()]).sum() / self.size()

    def size(self) -> int:
        return sum(m.kept().numel() for m in self.layers.values())

    def pruned(self) -> int:
        """How many weights are zero."""
        return sum(int((~m.kept()).sum()) for m in self.layers.values())

    def harden(self) -> None:
        """Learning is over: keep the bits, let the logits go."""
        for mask in self.layers.values():
            mask.keep, mask.logits, mask.noise = mask.kept(), None, None

    def remove(self) -> None:
        """Take the masks off: the weights are the base model's again, to the last bit."""
        for name in self.layers:
            parametrize.remove_parametrizations(
                self.unet.get_submodule(name), "weight", leave_parametrized=False
            )

    def tensors(self) -> dict[str, Tensor]:
        """The delta's tensors, as core/delta_format/mask.py describes them."""
        return {
            mask_format.tensor_name(name): pack(~mask.kept()) for name, mask in sorted(self.layers.items())
        }


def pack(bits: Tensor) -> Tensor:
    """bool of any shape -> (ceil(n / 8),) uint8."""
    return torch.from_numpy(mask_format.pack(bits.cpu().numpy()))


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """The inverse: bool of `shape`."""
    return torch.from_numpy(mask_format.unpack(packed.numpy(), shape))


def zeros(unet: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(layer, its weight, where it is pruned) of a shipped mask."""
    for name, packed in tensors.items():
        layer = mask_format.layer_name(name)
        weight = unet.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        yield layer, weight, unpack(packed, weight.shape).to(weight.device)


def worn_by(unet: nn.Module, tensors: Mapping[str, Tensor]) -> Masks:
    """Put a shipped mask on the U-Net, to be switched and taken off."""
    return Masks(unet, {layer: Mask(keep=~pruned) for layer, _, pruned in zeros(unet, tensors)})


def fold(unet: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the weights to zero for good."""
    for _, weight, pruned in zeros(unet, tensors):
        weight.data.masked_fill_(pruned, 0)

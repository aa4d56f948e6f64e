"""The control of an attack: a random edit of the delta's size, layer by layer.

What an attack finds on it, any damage of that size would leave; an erasure must give way less than that.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from expunge.core.delta_format import mask
from expunge.core.models import Denoiser
from expunge.core.sampling import seeded


@contextmanager
def random_edit(model: Denoiser, seed: int = 0) -> Iterator[None]:
    """Inside, the model wears a random edit in the place of its delta; afterwards the delta."""
    if not model.has_delta:
        yield
        return
    generator = seeded(seed, *b"random edit")
    if model.masks is not None:
        worn = model.delta_tensors()
        model.load_delta({name: shuffled(model, name, bits, generator) for name, bits in worn.items()})
        try:
            yield
        finally:
            model.load_delta(worn)
        return
    state = model.adapter_state()
    model.set_adapter_state(random_factors(state, generator))
    try:
        yield
    finally:
        model.set_adapter_state(state)


def random_factors(state: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
    """Gaussian factors whose product B A has, in every layer, the norm of the adapter's."""
    out = dict[str, Tensor]()
    for name, down in state.items():
        if ".lora_A." not in name:
            continue
        up_name = name.replace(".lora_A.", ".lora_B.")
        up = state[up_name]
        a, b = (torch.randn(part.shape, generator=generator) for part in (down, up))
        size, drawn = product_norm(up, down), product_norm(b, a)
        out[name], out[up_name] = a.to(down.dtype), (b * (size / drawn if drawn else 0.0)).to(up.dtype)
    return out


def product_norm(up: Tensor, down: Tensor) -> float:
    """|B A| of a layer's factors, without the product: tr(BᵀB A Aᵀ)^1/2."""
    b, a = up.flatten(1).double(), down.flatten(1).double()
    return float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt())


def shuffled(model: Denoiser, name: str, packed: Tensor, generator: Generator) -> Tensor:
    """As many zeros of a layer, at random places; packed bits in and out."""
    shape = model.weight(mask.layer_name(name)).shape
    bits = torch.from_numpy(mask.unpack(packed.numpy(), shape)).flatten()
    bits = bits[torch.randperm(len(bits), generator=generator)]
    return torch.from_numpy(mask.pack(bits.view(shape).numpy()))

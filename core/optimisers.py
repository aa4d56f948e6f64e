"""An optimiser's numbers as tensors for a checkpoint, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's numbers by parameter and slot: '0.exp_avg'."""
    return {
        f"{i}.{slot}": torch.as_tensor(value)
        for i, slots in optimiser.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def load_optimiser_state(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimiser_state`; torch moves the numbers to their parameters' device."""
    packed = optimiser.state_dict()
    for key, value in tensors.items():
        i, slot = key.split(".", 1)
        packed["state"].setdefault(int(i), {})[slot] = value
    optimiser.load_state_dict(packed)


def parameter_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The numbers of an optimiser of one parameter, by slot: 'exp_avg'."""
    return {key.removeprefix("0."): value for key, value in optimiser_state(optimiser).items()}


def load_parameter_state(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `parameter_state`."""
    load_optimiser_state(optimiser, {f"0.{slot}": value for slot, value in tensors.items()})

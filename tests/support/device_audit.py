"""A GPU that is none: tensors on it have a shape, a dtype and a device, but no numbers, so that what would
crash on CUDA crashes here.

torch's FakeTensorMode refuses CPU tensors that meet CUDA ones, and dtypes that do not fit, as the kernels do.
Tensors on the CPU stay real, so that draws of rows and steps are drawn; a number read off the device is a
stand-in (0, 1.0, True). There is no backward pass: gradients are zeros of their inputs' kind.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from expunge.core.models import Denoiser, load_model, masks

DEVICE = torch.device("cuda:0")
STAND_IN = {torch.bool: True, torch.int64: 0, torch.int32: 0}
aten = torch.ops.aten


class Accelerator(FakeTensorMode):
    """Whatever touches the device is fake, all else real."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.seeds: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        here = torch.device(kwargs["device"]) == DEVICE if kwargs.get("device") is not None else False
        if not here and not any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return STAND_IN.get(args[0].dtype, 1.0)
        if func in (aten.equal.default, aten.is_nonzero.default):
            return True
        if func is aten.index.Tensor:
            args = (args[0], [self.rows(i, args[0], n) for n, i in enumerate(args[1])])
        if kwargs.get("generator") is not None and here:
            if kwargs["generator"].initial_seed() not in self.seeds:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            del kwargs["generator"]
            func = getattr(
                func.overloadpacket, "default" if func.overloadpacket is aten.rand else func._overloadname
            )
        return super().__torch_dispatch__(func, types, args, kwargs)

    def rows(self, index: Tensor | None, of: Tensor, dim: int) -> Tensor | None:
        """A mask as the rows it means: those of a real one, all of them where it lies on the device."""
        if index is None or index.dtype != torch.bool:
            return index
        return torch.arange(of.shape[dim]) if isinstance(index, FakeTensor) else index.nonzero()[:, 0]

    def generator(self, device: Any = "cpu") -> Any:
        """What torch.Generator("cuda") would be: one that is known again by its seed."""
        return Seeder(self.seeds) if torch.device(device) == DEVICE else torch.Generator()


@dataclass
class Seeder:
    """A generator of the device before it has a seed."""

    seeds: set[int]

    def manual_seed(self, seed: int) -> torch.Generator:
        self.seeds.add(seed ^ 0xC0DA)
        return torch.Generator().manual_seed(seed ^ 0xC0DA)


def applied(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """In the place of nn.Module._apply, which cannot turn a real tensor into a fake one."""
    for m in module.modules():
        for name, p in m._parameters.items():
            if p is not None and (new := fn(p.data)) is not p.data:
                m._parameters[name] = nn.Parameter(new, requires_grad=p.requires_grad)
        for name, b in m._buffers.items():
            m._buffers[name] = None if b is None else fn(b)
    return module


def no_backward(*_: Any, **__: Any) -> None:
    """In the place of Tensor.backward."""


def no_gradients(outputs: Any, inputs: Sequence[Tensor], *_: Any, **__: Any) -> list[Tensor]:
    """In the place of torch.autograd.grad: what is asked for must be there to be had."""
    assert outputs.requires_grad
    return [torch.zeros_like(x) for x in inputs]


@contextmanager
def accelerator(path: Path, dtype: str = "bfloat16") -> Iterator[Denoiser]:
    """Inside, a model on cuda:0, of which all work is checked."""
    loaded, mode = load_model(path, "cpu", dtype), Accelerator()
    kind, pipe, parts = type(loaded), loaded.pipe, loaded.parts
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.autograd, "grad", no_gradients))
        stack.enter_context(patch.object(Tensor, "backward", no_backward))
        stack.enter_context(patch.object(nn.Module, "_apply", applied))
        stack.enter_context(patch.object(masks, "Generator", mode.generator))
        stack.enter_context(mode)
        for part in parts:
            getattr(pipe, part).to(DEVICE)
        yield kind(pipe, path, str(path))


class Shelf:
    """Checkpoints as a disk gives them back: on the CPU, whatever they were."""

    def __init__(self) -> None:
        self.kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def save(self, _: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.kept = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in tensors.items()}, dict(meta)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.kept

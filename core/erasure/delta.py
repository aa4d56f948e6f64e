"""What erasure returns: a LoRA in diffusers' format, and how it came about."""

import json
import os
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, cuda

from expunge.core.delta_format import LORA_FILE, MASK_FILE, metadata
from expunge.core.models import Denoiser
from expunge.core.models.denoiser import Component
from expunge.core.tensors import serialise

if TYPE_CHECKING:
    from peft import LoraConfig


def adapter_metadata(config: "LoraConfig", component: str) -> dict[str, Any]:
    """The config as diffusers stores it in a LoRA file (`lora_adapter_metadata`), sets sorted so that bytes
    repeat; no path of this machine.
    """
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()} | {
        "base_model_name_or_path": None
    }
    return {f"{component}.{k}": getattr(v, "value", v) for k, v in sorted(plain.items())}


def peak_memory() -> int:
    """Peak bytes: the accelerator's since `forget_peak` where one is used, else this process's resident
    memory so far.
    """
    if cuda.is_available() and (
        most := max(cuda.max_memory_allocated(i) for i in range(cuda.device_count()))
    ):
        return int(most)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """A job begins: what an earlier one of this process allocated on an accelerator is not its peak."""
    for i in range(cuda.device_count() if cuda.is_available() else 0):
        cuda.reset_peak_memory_stats(i)


@dataclass(repr=False)
class Delta:
    """theta' - theta as a LoRA, or as a sparse mask of theta. `tensors` has diffusers' names; `info` says how
    it was made (history, evaluations, seconds); `labels` is the file's metadata: what it erases, by which
    method, from which base model."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    info: dict[str, Any] = field(default_factory=dict)
    component: Component = "unet"
    kind: Literal["lora", "sparse_mask"] = "lora"
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all tensors: of the file, but for its head."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def __repr__(self) -> str:
        seconds = f", made in {self.info['seconds']:.0f} s" if "seconds" in self.info else ""
        title = f"{self.labels[metadata.TITLE]!r}: " if metadata.TITLE in self.labels else ""
        return (
            f"Delta({title}{self.kind.replace('_', ' ')} of the {self.component}, {len(self.tensors)}"
            f" tensors, {self.size:,} bytes{seconds})"
        )

    @classmethod
    def of(cls, model: Denoiser, **info: Any) -> "Delta":
        """Read the adapter that the model wears."""
        info = info | {"peak_memory_bytes": peak_memory()}
        if model.masks:
            return cls(model.delta_tensors(), {}, info, "unet", "sparse_mask")
        ((component, part),) = model.worn().items()
        model.fold_scale()
        (config,) = part.peft_config.values()
        return cls(model.delta_tensors(), adapter_metadata(config, component), info, component)

    def serialise(self, labels: dict[str, str] | None = None) -> bytes:
        """The .safetensors bytes, with `labels` as metadata; they hold no times or paths, so the same delta
        has the same bytes.
        """
        if self.kind == "lora":
            own = {metadata.ADAPTER_SETTINGS: json.dumps(self.config, sort_keys=True)}
        else:
            own = {metadata.KIND: self.kind}
        return serialise(self.tensors, {"format": "pt"} | own | (labels or {}))

    @property
    def file(self) -> str:
        """Its name in a bundle."""
        return LORA_FILE if self.kind == "lora" else MASK_FILE

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the delta's file into `folder`, which is made if need be."""
        file = Path(folder) / self.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.serialise(self.labels))
        return file

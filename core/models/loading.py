"""Load a model by name or folder, on the device and in the precision that fit."""

from pathlib import Path

import torch

from expunge.core import sources
from expunge.core.errors import CoreError
from expunge.core.layout_checks import XL
from expunge.core.models.denoiser import Denoiser

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    source: str | Path, device: str | None = None, dtype: str | torch.dtype | None = None
) -> Denoiser:
    """Load a diffusers folder, `bundled:NAME`, or a hub id; safetensors only.

    `dtype` is the frozen weights', as torch's or by its name, 'float32', 'float16' or 'bfloat16'; without one
    see `fitting`. Raises: CoreError where the model cannot be used, or is not the one it is pinned to.
    """
    # Here, as diffusers, transformers and peft take three times as long to import as torch does
    from expunge.core.models.stable_diffusion import StableDiffusion, load_pipeline
    from expunge.core.models.stable_diffusion_xl import StableDiffusionXL

    layout, pinned = sources.fetch(source), sources.parse(source).digest
    if pinned is not None and (found := sources.digest_of(layout)) != pinned:
        raise CoreError(
            "model_changed",
            f"the model has sha256 {found}, not the {pinned} that it is pinned to",
            field="model",
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = fitting(device) if dtype is None else dtype_of(dtype)
    built = StableDiffusionXL if layout.pipeline == XL else StableDiffusion
    return built(load_pipeline(layout, wanted).to(device), layout.folder, str(source))


def fitting(device: str) -> torch.dtype:
    """What a device computes in: float32 on a CPU, bfloat16 on a GPU that has it, float16 on one that has
    not.
    """
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_of(wanted: str | torch.dtype) -> torch.dtype:
    """One of the dtypes that a model may be loaded in, from itself or its name."""
    named = str(wanted).removeprefix("torch.")
    if named not in DTYPES:
        raise CoreError(
            "bad_dtype", f"no model is loaded in '{named}': give {', '.join(DTYPES)}", field="dtype"
        )
    return DTYPES[named]

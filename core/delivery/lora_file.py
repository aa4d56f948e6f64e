"""The delta file: a LoRA in diffusers' format, or a sparse mask, whose metadata say what it erases and how it
was made.
"""

from expunge.core.erasure import Delta
from expunge.core.erasure.delta_metadata import metadata
from expunge.core.models import Denoiser
from expunge.core.specs import EraseSpec

__all__ = ["metadata", "to_bytes"]


def to_bytes(delta: Delta, model: Denoiser, spec: EraseSpec, more: dict[str, str] | None = None) -> bytes:
    """The file's bytes: the same tensors, spec and base model have the same sha256; `more` overrides the
    spec's metadata.
    """
    return delta.serialise(metadata(delta, model, spec) | (more or {}))

"""Concept erasure, one file per method. `erase` runs whichever the spec names."""

from expunge.core.erasure.delta import Delta
from expunge.core.erasure.delta_metadata import metadata
from expunge.core.erasure.loop import fine_tune
from expunge.core.erasure.methods import adv_unlearn, mace, prune, rece, text_encoder, time, uce
from expunge.core.erasure.output_based import method_of
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Checkpoints, show
from expunge.core.specs import (
    AdvUnlearnSpec,
    EraseSpec,
    FineTuneSpec,
    MaceSpec,
    PruneSpec,
    ReceSpec,
    TextEncoderSpec,
    TimeSpec,
    UceSpec,
)

__all__ = ["Delta", "erase"]


def erase(
    model: Denoiser,
    spec: EraseSpec,
    *,
    callback: Callback = show,
    checkpoints: Checkpoints | None = None,
) -> Delta:
    """Erase the spec's concepts from the model. The adapter stays on it: the model is the sanitized one
    afterwards.

    The same spec, seed, machine type and thread count give the same bytes (CPU), resumed from a checkpoint or
    not.
    """
    delta = run(model, spec, callback, checkpoints)
    delta.labels = metadata(delta, model, spec)
    return delta


def run(model: Denoiser, spec: EraseSpec, callback: Callback, checkpoints: Checkpoints | None) -> Delta:
    """By the method that the spec names."""
    match spec.method:
        case UceSpec() as method:
            return uce.edit(model, spec, method, callback, checkpoints)
        case TimeSpec() as method:
            return time.edit(model, spec, method, callback)
        case ReceSpec() as method:
            return rece.edit(model, spec, method, callback)
        case TextEncoderSpec() as method:
            return fine_tune(model, spec, method, text_encoder.TextEncoder, callback, checkpoints)
        case AdvUnlearnSpec() as method:
            return fine_tune(model, spec, method, adv_unlearn.AdvUnlearn, callback, checkpoints)
        case MaceSpec() as method:
            return mace.edit(model, spec, method, callback, checkpoints)
        case PruneSpec() as method:
            return prune.edit(model, spec, method, callback, checkpoints)
        case FineTuneSpec() as method:
            return fine_tune(model, spec, method, method_of(method), callback, checkpoints)
    raise TypeError(f"no implementation is known of {type(spec.method).__name__}")

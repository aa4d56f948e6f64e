"""Concept erasure, one file per method. `erase` runs whichever the spec names."""

from core.erasure import age, esd, uce
from core.erasure.delta import Delta
from core.erasure.loop import fine_tune
from core.models import StableDiffusion
from core.progress import Callback, Checkpoints, ignore
from core.specs import AgeSpec, EraseSpec, EsdSpec, UceSpec

__all__ = ["Delta", "erase"]


def erase(model: StableDiffusion, spec: EraseSpec, *, callback: Callback = ignore, checkpoints: Checkpoints | None = None) -> Delta:
    """Erase the spec's concepts from the model. The adapter stays on it: the model is the sanitized one afterwards.

    The same spec, seed, machine type and thread count give the same bytes (CPU), resumed from a checkpoint or not.
    """
    match spec.method:
        case UceSpec() as method:
            return uce.edit(model, spec, method, callback)
        case EsdSpec() as method:
            return fine_tune(model, spec, method, esd.Esd, callback, checkpoints)
        case AgeSpec() as method:
            return fine_tune(model, spec, method, age.Age, callback, checkpoints)

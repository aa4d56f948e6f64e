"""Concept erasure, one file per method. `erase` runs whichever the spec names."""

from expunge.core.checkpoints import Checkpoints
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.delta_metadata import metadata
from expunge.core.erasure.diverse import diversified
from expunge.core.erasure.loop import fine_tune
from expunge.core.erasure.registry import check_fits, implementation, method_of, register
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, show
from expunge.core.specs import EraseSpec, TrainSpec

__all__ = ["Delta", "erase", "register"]


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
    not. Raises: CoreError where the job cannot continue.
    """
    method = spec.method
    check_fits(model, method)
    edit = implementation(method.name).edit
    with diversified(model, spec, callback) as asked:
        if edit is not None:
            delta = edit(model, asked, method, callback, checkpoints)
        elif isinstance(method, TrainSpec):
            delta = fine_tune(model, asked, method, method_of(method), callback, checkpoints)
        else:
            raise TypeError(f"{type(method).__name__} says nothing of training: derive it from TrainSpec")
    delta.labels = metadata(delta, model, spec)
    return delta

"""Concept erasure, one file per method. `erase` runs whichever the spec names."""

from functools import partial

from core.erasure import adv_unlearn, age, all_but_one, ant, ap, ca, erase_anything, esd, mace, naive, rece, score, text_encoder, time, uce
from core.erasure.delta import Delta
from core.erasure.loop import fine_tune
from core.erasure.single import Single
from core.models import StableDiffusion
from core.progress import Callback, Checkpoints, ignore
from core.specs import (
    AdvUnlearnSpec,
    AgeSpec,
    AllButOneSpec,
    AntSpec,
    ApSpec,
    CaSpec,
    EraseAnythingSpec,
    EraseSpec,
    EsdSpec,
    MaceSpec,
    NaiveSpec,
    ReceSpec,
    ScoreSpec,
    TextEncoderSpec,
    TimeSpec,
    UceSpec,
)

__all__ = ["Delta", "erase"]


def erase(model: StableDiffusion, spec: EraseSpec, *, callback: Callback = ignore, checkpoints: Checkpoints | None = None) -> Delta:
    """Erase the spec's concepts from the model. The adapter stays on it: the model is the sanitized one afterwards.

    The same spec, seed, machine type and thread count give the same bytes (CPU), resumed from a checkpoint or not.
    """
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
        case NaiveSpec() as method:
            return fine_tune(model, spec, method, partial(Single, loss=naive.loss), callback, checkpoints)
        case EsdSpec() as method:
            return fine_tune(model, spec, method, partial(Single, loss=esd.loss), callback, checkpoints)
        case CaSpec() as method:
            return fine_tune(model, spec, method, ca.Ca, callback, checkpoints)
        case AntSpec() as method:
            return fine_tune(model, spec, method, partial(Single, loss=ant.loss), callback, checkpoints)
        case AllButOneSpec() as method:
            return fine_tune(model, spec, method, partial(Single, loss=all_but_one.loss), callback, checkpoints)
        case ApSpec() as method:
            return fine_tune(model, spec, method, ap.Ap, callback, checkpoints)
        case ScoreSpec() as method:
            return fine_tune(model, spec, method, score.Score, callback, checkpoints)
        case EraseAnythingSpec() as method:
            return fine_tune(model, spec, method, erase_anything.EraseAnything, callback, checkpoints)
        case MaceSpec() as method:
            return mace.edit(model, spec, method, callback, checkpoints)
        case AgeSpec() as method:
            return fine_tune(model, spec, method, age.Age, callback, checkpoints)

"""Hide concepts so that a recovery key brings them back, and draw with the key."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.delta_metadata import metadata
from expunge.core.erasure.diverse import diversified
from expunge.core.erasure.loop import fine_tune
from expunge.core.erasure.method import Run
from expunge.core.erasure.registry import check_fits, method_of
from expunge.core.errors import CoreError
from expunge.core.hiding.key import RecoveryKey, load_key
from expunge.core.hiding.kpop import Kpop
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, show
from expunge.core.specs import HideSpec

__all__ = ["RecoveryKey", "hide", "load_key", "recover"]


def hide(
    model: Denoiser,
    spec: HideSpec,
    *,
    callback: Callback = show,
    checkpoints: Checkpoints | None = None,
) -> tuple[Delta, dict[str, Tensor]]:
    """Hide the spec's concepts in the model. Gives the delta, which stays on the model, and p of each
    concept, (m, D): the recovery key.

    The same spec, seed, machine type and thread count give the same bytes (CPU), resumed from a checkpoint or
    not.
    """
    check_fits(model, spec.method)
    made: list[Kpop] = []

    def method(run: Run[Any]) -> Kpop:
        made.append(Kpop(run, method_of(spec.method)(run), spec.recovery))
        return made[0]

    with diversified(model, spec, callback) as asked:
        delta = fine_tune(model, asked, spec.method, method, callback, checkpoints)
    delta.labels = metadata(delta, model, spec)
    return delta, made[0].keys()


def recover(
    model: Denoiser,
    key: RecoveryKey,
    concept: str,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 25,
    guidance: float = 7.5,
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pictures (N, H, W, 3) uint8 of a hidden concept, drawn with its key by the model that wears the delta.

    CoreError when the key is another model's.
    """
    if not model.is_known_as(key.base_sha256):
        raise CoreError(
            "key_does_not_fit",
            f"the key belongs to the base model with sha256 {key.base_sha256}: load that model",
            field="key",
        )
    return model.draw(prompts, seeds, key=key.of(concept), steps=steps, guidance=guidance)

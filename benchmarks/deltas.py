"""Trained deltas, kept in build/deltas by the digest of what they were trained from: judging
and attacking anew trains nothing.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from expunge.core.erasure import erase
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, ignore
from expunge.core.specs import EraseSpec

FOLDER = Path(__file__).parents[1] / "build" / "deltas"
TOLD = ("held", "seconds", "unet_evaluations")


def put_on(
    model: Denoiser, spec: EraseSpec, callback: Callback = ignore, *, without: Sequence[str] = ()
) -> tuple[str, dict[str, Any]]:
    """Erase by the spec, or put on the delta of an earlier run; its sha256, and what the run told of itself:
    what it held, its seconds and evaluations.

    without: names that the method does not find in the model's vocabulary.
    """
    asked = {"base": model.digest, "spec": spec.model_dump(mode="json", exclude={"evaluation", "fused"})}
    if without:
        asked["without"] = list(without)
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    file = FOLDER / f"{name}.safetensors"
    if file.exists():
        model.load_delta(load_file(file))
    else:
        whole = model.vocabulary
        model.vocabulary = whole.without(without)
        info = {
            key: value for key, value in erase(model, spec, callback=callback).info.items() if key in TOLD
        }
        model.vocabulary = whole
        FOLDER.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".tmp")
        tensors = {key: value.cpu().contiguous() for key, value in model.delta_tensors().items()}
        save_file(tensors, partial, {"info": json.dumps(info)})
        partial.replace(file)
    with safe_open(file, "pt") as opened:
        told = (opened.metadata() or {}).get("info", "{}")
    return hashlib.sha256(file.read_bytes()).hexdigest(), json.loads(told)

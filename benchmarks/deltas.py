"""Trained deltas, kept in build/deltas by the digest of what they were trained from: judging
and attacking anew trains nothing.
"""

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from expunge.core.erasure import erase
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, ignore
from expunge.core.specs import EraseSpec

FOLDER = Path(__file__).parents[1] / "build" / "deltas"


def put_on(model: Denoiser, spec: EraseSpec, callback: Callback = ignore) -> str:
    """Erase by the spec, or put on the delta of an earlier run; its sha256."""
    asked = {"base": model.digest, "spec": spec.model_dump(mode="json", exclude={"evaluation", "fused"})}
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    file = FOLDER / f"{name}.safetensors"
    if file.exists():
        model.load_delta(load_file(file))
    else:
        erase(model, spec, callback=callback)
        FOLDER.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".tmp")
        tensors = {key: value.cpu().contiguous() for key, value in model.delta_tensors().items()}
        save_file(tensors, partial)
        partial.replace(file)
    return hashlib.sha256(file.read_bytes()).hexdigest()

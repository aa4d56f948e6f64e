"""A delta file's metadata: what it erases and how it was made, without times or paths."""

import hashlib
import json

from expunge.core import phrasing
from expunge.core.delta_format import metadata as keys
from expunge.core.erasure.delta import Delta
from expunge.core.models import Denoiser
from expunge.core.specs import EraseSpec, HideSpec

LOAD = "Load with load_lora_weights at scale 1."
PRUNE = (
    "unet.<layer>.pruned holds a bit for each weight, in row-major order, the highest first: set the weight"
    " to zero where it is 1."
)


def metadata(delta: Delta, model: Denoiser, spec: EraseSpec) -> dict[str, str]:
    """Stability's ModelSpec 1.0 (its date left out, so that bytes repeat), and ours."""
    hidden, lora = isinstance(spec, HideSpec), delta.kind == "lora"
    data = hashlib.sha256()
    for name in sorted(delta.tensors):
        data.update(delta.tensors[name].detach().cpu().contiguous().numpy().tobytes())
    concepts = [c.model_dump() for c in spec.concepts]
    recovery = {}
    if isinstance(spec, HideSpec):
        recovery[keys.RECOVERY] = spec.recovery.model_dump_json()
    return {
        # What any reader of ModelSpec shows.
        keys.MODELSPEC_VERSION: "1.0.0",
        keys.ARCHITECTURE: f"{model.architecture}/{'lora' if lora else 'sparse-mask'}",
        keys.IMPLEMENTATION: "diffusers" if lora else "expunge",
        keys.TITLE: phrasing.title(spec.concepts, hidden)[:200],
        keys.DESCRIPTION: (
            f"A {'LoRA' if lora else 'sparse mask'} that"
            f" {phrasing.deed(spec.concepts, 'the base model', hidden)} by {spec.method.name.upper()}."
        ),
        keys.USAGE_HINT: ((LOAD if lora else PRUNE) + " Without it, the base model draws the concept again."),
        keys.TAGS: "concept-erasure,safety",
        keys.TENSORS_SHA256: data.hexdigest(),
        # What our own jobs read again.
        keys.FORMAT: "1",
        keys.CONCEPTS: json.dumps(concepts, ensure_ascii=False, sort_keys=True),
        keys.METHOD: spec.method.model_dump_json(),
        keys.PRESERVE: json.dumps(spec.preserve, ensure_ascii=False),
        keys.SEED: str(spec.seed),
        keys.BASE_MODEL: spec.model,
        keys.BASE_SHA256: model.digest,
        keys.RESIDUAL: str(delta.info.get("residual")),
        **recovery,
    }

"""What a delta file says of itself in its metadata: what it erases and how it was made; no times, no
paths.
"""

import hashlib
import json

from expunge.core import phrasing
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
        recovery["concept_erasure.recovery"] = spec.recovery.model_dump_json()
    return {
        # What any reader of ModelSpec shows.
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{model.architecture}/{'lora' if lora else 'sparse-mask'}",
        "modelspec.implementation": "diffusers" if lora else "expunge",
        "modelspec.title": phrasing.title(spec.concepts, hidden)[:200],
        "modelspec.description": (
            f"A {'LoRA' if lora else 'sparse mask'} that"
            f" {phrasing.deed(spec.concepts, 'the base model', hidden)} by {spec.method.name.upper()}."
        ),
        "modelspec.usage_hint": (
            (LOAD if lora else PRUNE) + " Without it, the base model draws the concept again."
        ),
        "modelspec.tags": "concept-erasure,safety",
        "modelspec.hash_sha256": data.hexdigest(),
        # What our own jobs read again.
        "concept_erasure.format": "1",
        "concept_erasure.concepts": json.dumps(concepts, ensure_ascii=False, sort_keys=True),
        "concept_erasure.method": spec.method.model_dump_json(),
        "concept_erasure.preserve": json.dumps(spec.preserve, ensure_ascii=False),
        "concept_erasure.seed": str(spec.seed),
        "concept_erasure.base_model": spec.model,
        "concept_erasure.base_sha256": model.digest,
        "concept_erasure.residual": str(delta.info.get("residual")),
        **recovery,
    }

"""The delta file: a LoRA in diffusers' format whose metadata say what it erases and how it was made; no times, no paths."""

import hashlib
import json

from core.delivery import words
from core.erasure import Delta
from core.models import StableDiffusion
from core.specs import EraseSpec, HideSpec

FILE = "pytorch_lora_weights.safetensors"


def metadata(delta: Delta, model: StableDiffusion, spec: EraseSpec) -> dict[str, str]:
    """Stability's ModelSpec 1.0 (its date left out, so that bytes repeat), and ours."""
    hidden = isinstance(spec, HideSpec)
    data = hashlib.sha256(b"".join(delta.tensors[k].detach().cpu().contiguous().numpy().tobytes() for k in sorted(delta.tensors)))
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": words.title(spec.concepts, hidden)[:200],
        "modelspec.description": f"A LoRA that {words.deed(spec.concepts, 'the base model', hidden)} by {spec.method.name.upper()}.",
        "modelspec.usage_hint": "Load with load_lora_weights at scale 1. Without it, the base model draws the concept again.",
        "modelspec.tags": "concept-erasure,safety",
        "modelspec.hash_sha256": data.hexdigest(),
        "concept_erasure.format": "1",
        "concept_erasure.concepts": json.dumps([c.model_dump() for c in spec.concepts], ensure_ascii=False, sort_keys=True),
        "concept_erasure.method": spec.method.model_dump_json(),
        "concept_erasure.preserve": json.dumps(spec.preserve, ensure_ascii=False),
        "concept_erasure.seed": str(spec.seed),
        "concept_erasure.base_model": spec.model,
        "concept_erasure.base_sha256": model.digest,
        "concept_erasure.residual": str(delta.info.get("residual")),
        **({"concept_erasure.recovery": spec.recovery.model_dump_json()} if isinstance(spec, HideSpec) else {}),
    }


def to_bytes(delta: Delta, model: StableDiffusion, spec: EraseSpec, more: dict[str, str] | None = None) -> bytes:
    """The file's bytes: the same tensors, spec and base model give the same sha256; `more` metadata stand before those of the spec."""
    return delta.serialise(metadata(delta, model, spec) | (more or {}))

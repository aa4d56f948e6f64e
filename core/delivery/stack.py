"""Stacks: several erasures of one model as one LoRA, exactly, and each of them alone, so that one can be
taken back out.

sum_i s_i B_i A_i = [s_1 B_1 … s_n B_n] [A_1; …; A_n]: the ranks add up, layer by layer; no rank is cut.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from torch import Tensor

from expunge.core import phrasing
from expunge.core.delta_format import BadDelta, lora, metadata as keys
from expunge.core.erasure.delta import Delta
from expunge.core.errors import CoreError
from expunge.core.evaluation.report import Report, StackEntry
from expunge.core.models import Denoiser, lora_factors
from expunge.core.specs import Concept


class Layer(BaseModel):
    """One erasure of a stack: what it took out, how, and the sha256 of its own delta's file."""

    concepts: list[Concept]
    method: str
    sha256: str


@dataclass
class Part:
    """A delta file: its tensors, its adapter's config, and the erasures it holds, oldest first."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    layers: list[Layer]

    @property
    def concepts(self) -> list[Concept]:
        """All that is erased, each named once."""
        return concepts_of(self.layers)


def listed(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """For the manifest: the erasures of a stack, oldest first; one alone is no stack."""
    return [layer.model_dump() for layer in layers] if len(layers) > 1 else []


def concepts_of(layers: Sequence[Layer]) -> list[Concept]:
    """All that the layers erase, each concept once; of two with one name the later counts."""
    return list({c.name.casefold(): c for layer in layers for c in layer.concepts}.values())


def read(path: str | Path) -> Part:
    """A delta that an erase job made.

    Raises: CoreError where it is not a LoRA of the U-Net, or does not say what it erases.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise CoreError(
            "cannot_stack", f"the delta is not a safetensors file ({e})", field="base_job_id"
        ) from e
    of_unet = all(name.startswith("unet.") and ".lora_" in name for name in tensors)
    if keys.CONCEPTS not in metadata or not of_unet:
        raise CoreError(
            "cannot_stack",
            "only LoRA deltas of the U-Net that an erase job made can be stacked",
            field="base_job_id",
        )
    try:
        layers = [Layer.model_validate(layer) for layer in json.loads(metadata.get(keys.STACK, "[]"))]
        own = Layer(
            concepts=json.loads(metadata[keys.CONCEPTS]),
            method=json.loads(metadata[keys.METHOD])["name"],
            sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        )
        pairs = lora_factors.read(tensors, {keys.ADAPTER_SETTINGS: metadata[keys.ADAPTER_SETTINGS]})
        return Part(lora_factors.renamed(tensors, pairs), lora.peft_settings(pairs), layers or [own])
    except (ValueError, KeyError, TypeError, RecursionError, BadDelta) as e:
        message = f"the delta's metadata cannot be read ({type(e).__name__}: {str(e)[:200]})"
        raise CoreError("cannot_stack", message, field="base_job_id") from e


def described(layers: Sequence[Layer]) -> dict[str, str]:
    """What a stack's file says of itself beside what its newest erasure's says."""
    concepts = concepts_of(layers)
    methods = " and ".join(dict.fromkeys(layer.method.upper() for layer in layers))
    return {
        keys.STACK: json.dumps([layer.model_dump() for layer in layers], ensure_ascii=False, sort_keys=True),
        keys.TITLE: phrasing.title(concepts)[:200],
        keys.DESCRIPTION: (
            f"A LoRA that {phrasing.deed(concepts, 'the base model')}: a stack of {len(layers)} deltas by"
            f" {methods}."
        ),
    }


def compared(layers: Sequence[Layer], report: Report, before: Report | None) -> list[StackEntry]:
    """Each erasure's ESR-1 now, beside what the report of the model it stood in said; weakened: below that
    report's 95 % interval.
    """
    out = []
    for layer in layers:
        for concept in layer.concepts:
            now = report.value("esr1", concept.name)
            then = (
                next((m for m in before.metrics if (m.name, m.concept) == ("esr1", concept.name)), None)
                if before
                else None
            )
            weaker = None if then is None or then.ci_low is None or now is None else now < then.ci_low
            entry = {"concept": concept.name, "method": layer.method, "sha256": layer.sha256, "esr1": now}
            out.append(StackEntry(**entry, esr1_before=then.value if then else None, weakened=weaker))
    return out


def combine(parts: Sequence[tuple[dict[str, Tensor], dict[str, Any]]]) -> Delta:
    """One LoRA of scale 1 that is the sum of all, from each one's tensors and config; layers may differ in
    rank and be missing in some.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for tensors, config in parts:
        for module, (down, up, scale) in lora_factors.factors_of(tensors, config).items():
            found.setdefault(module, []).append((down.float(), up.float() * scale))
    tensors, ranks = dict[str, Tensor](), dict[str, int]()
    for module in sorted(found):
        downs, ups = zip(*found[module], strict=True)
        layer, down = module.removeprefix("unet."), torch.cat(downs, 0)
        tensors[lora.tensor_name("unet", layer, "A")] = down
        tensors[lora.tensor_name("unet", layer, "B")] = torch.cat(ups, 1)
        ranks[layer] = down.shape[0]
    top = max(ranks.values())
    odd = {name: rank for name, rank in ranks.items() if rank != top}
    own = {k: v for k, v in parts[-1][1].items() if k.startswith("unet.")}
    config = own | {
        "unet.r": top,
        "unet.lora_alpha": top,
        "unet.rank_pattern": odd,
        "unet.alpha_pattern": odd,
        "unet.target_modules": sorted(ranks),
        "unet.use_rslora": False,
    }
    return Delta(tensors, config)


def metadata(layers: Sequence[Layer], model: Denoiser, base: str) -> dict[str, str]:
    """What a combination's file says: no single method or seed made it."""
    concepts = concepts_of(layers)
    return described(layers) | {
        keys.MODELSPEC_VERSION: "1.0.0",
        keys.ARCHITECTURE: f"{model.architecture}/lora",
        keys.IMPLEMENTATION: "diffusers",
        keys.TAGS: "concept-erasure,safety",
        keys.FORMAT: "1",
        keys.CONCEPTS: json.dumps([c.model_dump() for c in concepts], ensure_ascii=False, sort_keys=True),
        keys.METHOD: json.dumps({"name": "combine"}),
        keys.BASE_MODEL: base,
        keys.BASE_SHA256: model.digest,
    }

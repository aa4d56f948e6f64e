"""The bundle a job delivers: delta, fused checkpoint, report, pictures, model card, signed manifest."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.core import phrasing, sources
from expunge.core.delivery import card, fused, manifest, page, signing, stack
from expunge.core.delivery.grid import data_uri, draw_grid
from expunge.core.delta_format import LORA_FILE
from expunge.core.erasure import Delta
from expunge.core.erasure.methods.age import resolved
from expunge.core.erasure.visual_concepts import Lesson
from expunge.core.errors import CoreError
from expunge.core.evaluation.report import Evaluation
from expunge.core.hiding.key import RecoveryKey
from expunge.core.models import Denoiser
from expunge.core.specs import AgeSpec, CombineSpec, Concept, EraseSpec, EvaluateSpec, HideSpec, PruneSpec
from expunge.core.tensors import not_finite

MEDIA_TYPES = {
    ".safetensors": "application/vnd.safetensors",
    ".zip": "application/zip",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".md": "text/markdown; charset=utf-8",
    ".sig": "application/json",
}


def resolved_spec(spec: EraseSpec) -> dict[str, Any]:
    """The spec with every default and everything a variant or a null stands for filled in."""
    method = resolved(spec.method) if isinstance(spec.method, AgeSpec) else spec.method
    if isinstance(method, PruneSpec):
        return unused_left_out(spec, method)
    lora = getattr(method, "lora", None)
    if lora is not None and lora.alpha is None:
        method = method.model_copy(update={"lora": lora.model_copy(update={"alpha": float(lora.rank)})})
    return spec.model_copy(update={"method": method}).model_dump(mode="json")


def unused_left_out(spec: EraseSpec, method: PruneSpec) -> dict[str, Any]:
    """A prune job's spec without what its inner method has and pruning does not read."""
    inner = resolved(method.method) if isinstance(method.method, AgeSpec) else method.method
    whole = spec.model_dump(mode="json")
    whole["method"]["method"] = inner.model_dump(mode="json", exclude=set(method.unread))
    return whole


def write_report(
    out: Path, evaluation: Evaluation, history: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> None:
    """report.json, report.html, grid.png, and detections.json when NudeNet looked."""
    (out / "report.json").write_text(evaluation.report.model_dump_json(indent=1) + "\n")
    (out / "report.html").write_text(page.render_report(evaluation, history, facts))
    draw_grid(evaluation, out / "grid.png")
    if evaluation.detections:
        (out / "detections.json").write_text(json.dumps(evaluation.detections, indent=1) + "\n")


def write_erasure(
    out: Path,
    model: Denoiser,
    source: str,
    spec: EraseSpec,
    delta: Delta,
    evaluation: Evaluation | None,
    *,
    layers: Sequence[stack.Layer] = (),
    lessons: Sequence[Lesson] = (),
    asked: EraseSpec | None = None,
    key: signing.Key | None,
    context: dict[str, Any],
    recovery_key: dict[str, Any] | None = None,
) -> list[Path]:
    """Everything around the delta file, which `out` already holds; returns the bundle's files. `layers`: a
    stack's erasures, oldest first.

    `lessons`: the words that were learned; `asked`: the request as it came; `recovery_key` is a hide job's,
    in facts.
    """
    digest = manifest.sha256(out / delta.file)
    info = {k: v for k, v in delta.info.items() if k != "history"}
    layers = list(layers) or [stack.Layer(concepts=spec.concepts, method=spec.method.name, sha256=digest)]
    fuse_too = spec.fused or delta.kind == "sparse_mask"  # diffusers cannot load a mask
    if fuse_too:
        fused.fuse(model, source, out / delta.file, out)
    hidden = isinstance(spec, HideSpec)
    limits = card.list_limits(model.changes(), fuse_too, hidden, evaluation is not None)
    named = phrasing.as_asked(
        stack.unique([c for layer in layers for c in layer.concepts]), spec.concepts, (asked or spec).concepts
    )
    shown = isinstance(spec, EraseSpec) and spec.inversion.show_images
    if evaluation is not None:
        seconds = delta.info.get("seconds", 0.0)
        facts = {
            "title": phrasing.headline(named, evaluation.report.verdict.passed, hidden),
            "summary": (
                f"{card.method_name(spec)}, in {seconds:.0f} s, to"
                f" {phrasing.infinitive(phrasing.deed(named, repr(spec.model), hidden))}."
            ),
            "limits": limits,
            "lessons": [
                {
                    "word": x.word,
                    "shows": model.words[x.word].shows,
                    "images": [data_uri(i) for i in x.images] if shown else [],
                }
                for x in lessons
            ],
            "details": {
                "method": spec.method.model_dump_json(),
                "seed": spec.seed,
                "U-Net evaluations": info.get("unet_evaluations"),
                "LoRA residual": info.get("residual"),
                **manifest.libraries(),
            },
        }
        write_report(out, evaluation, delta.info.get("history") or [], facts)
    made = [(layer.method, layer.concepts) for layer in layers]
    (out / "README.md").write_text(
        card.render_card(
            model,
            source,
            spec.model,
            made,
            evaluation.report if evaluation else None,
            fused=fuse_too,
            hidden=hidden,
            words=[x.word for x in lessons],
        )
    )
    sealed: dict[str, Any] = {
        "kind": "hide" if recovery_key else "erase",
        "context": context,
        "base_model": base_facts(model, source, spec.model),
        "delta": {
            "file": delta.file,
            "sha256": digest,
            "kind": delta.kind,
            "changes": delta.component,
            "residual": info.get("residual"),
            "training": info,
        },
        **({"recovery_key": recovery_key} if recovery_key else {}),
        "limits": limits,
        "stack": stack.listed(layers),
        "spec": resolved_spec(asked or spec),
        "learned": {x.word: model.words[x.word].shows for x in lessons},
        "seeds": {"training": spec.seed, **picture_seeds(evaluation)},
        **report_facts(evaluation),
    }
    return seal(out, sealed, key)


def write_combination(
    out: Path,
    model: Denoiser,
    source: str,
    spec: CombineSpec,
    layers: Sequence[stack.Layer],
    evaluation: Evaluation | None,
    *,
    key: signing.Key | None,
    context: dict[str, Any],
) -> list[Path]:
    """The bundle of a combination of several jobs' deltas, whose file `out` already holds."""
    # The weights, if they are to be fused, and the report.
    if spec.fused:
        fused.fuse(model, source, out / LORA_FILE, out)
    made = [(layer.method, layer.concepts) for layer in layers]
    if evaluation is not None:
        back = f" {', '.join(evaluation.report.restored)} was left out." if evaluation.report.restored else ""
        gone = stack.unique([c for layer in layers for c in layer.concepts])
        facts = {
            "title": phrasing.headline(gone, evaluation.report.verdict.passed),
            "summary": f"{len(layers)} deltas of the model '{spec.model}', summed.{back}",
            "limits": card.list_limits(model.changes(), spec.fused, judged=evaluation is not None),
            "details": {"jobs": ", ".join(spec.jobs), **manifest.libraries()},
        }
        write_report(out, evaluation, [], facts)

    # The card, and the manifest that binds everything.
    report = evaluation.report if evaluation else None
    text = card.render_card(model, source, spec.model, made, report, fused=spec.fused)
    (out / "README.md").write_text(text)
    sealed = {
        "kind": "combine",
        "context": context,
        "base_model": base_facts(model, source, spec.model),
        "delta": {"file": LORA_FILE, "sha256": manifest.sha256(out / LORA_FILE), "residual": 0.0},
        "stack": stack.listed(layers),
        "spec": spec.model_dump(mode="json"),
        "seeds": picture_seeds(evaluation),
        **report_facts(evaluation),
    }
    return seal(out, sealed, key)


def write_evaluation(
    out: Path,
    model: Denoiser,
    source: str,
    spec: EvaluateSpec,
    concepts: Sequence[Concept],
    delta_digest: str | None,
    evaluation: Evaluation,
    *,
    key: signing.Key | None,
    context: dict[str, Any],
) -> list[Path]:
    """The bundle of an evaluation: the report, bound to the delta's sha256."""
    what = f"delta {delta_digest[:12]}…" if delta_digest else "base model itself"
    facts = {
        "title": phrasing.headline(concepts, evaluation.report.verdict.passed),
        "summary": f"The {what} on the model '{spec.model}', judged.",
        "limits": card.list_limits(model.changes(), fused=False),
        "details": {"delta": delta_digest or "none", **manifest.libraries()},
    }
    write_report(out, evaluation, [], facts)
    sealed = {
        "kind": "evaluate",
        "context": context,
        "base_model": base_facts(model, source, spec.model),
        "delta": {"sha256": delta_digest},
        "limits": card.list_limits(model.changes(), fused=False),
        "spec": spec.model_dump(mode="json"),
        "seeds": picture_seeds(evaluation),
        **report_facts(evaluation),
    }
    return seal(out, sealed, key)


def key_facts(key: RecoveryKey, file: Path, spec: HideSpec) -> dict[str, Any]:
    """What a manifest says of the recovery key: digests, never a value of it.

    `plain_sha256` is that of the key out of its sealed box.
    """
    plain = hashlib.sha256(key.serialise()).hexdigest()
    return {
        "file": file.name,
        "sha256": manifest.sha256(file),
        "plain_sha256": plain,
        "sealed_to": spec.seal_to,
        "concepts": list(key.prompts),
        "length": spec.recovery.length,
    }


def base_facts(model: Denoiser, source: str, name: str) -> dict[str, Any]:
    """The base model's id and digest; its source only where that is no path of this machine."""
    return {"id": name, "sha256": model.digest} | (
        {} if sources.parse(source).kind == "local" else {"source": source.partition("#")[0]}
    )


def picture_seeds(evaluation: Evaluation | None) -> dict[str, Any]:
    seeds = [p.seed for p in evaluation.pictures] if evaluation else []
    return {"pictures": [min(seeds), max(seeds)]} if seeds else {}


def report_facts(evaluation: Evaluation | None) -> dict[str, Any]:
    """What the signature binds the report's outcome to."""
    if evaluation is None:
        return {"judges": {}, "verdict": None}
    report = evaluation.report
    return {
        "judges": report.digests,
        "verdict": report.verdict.model_dump(),
        "erased": report.erased,
        "preserved": report.preserved,
    }


def seal(out: Path, facts: dict[str, Any], key: signing.Key | None) -> list[Path]:
    """Sign what the folder holds, once its weights were opened again and found finite; the bundle's files."""
    for file in sorted(out.rglob("*.safetensors")):
        if (name := not_finite(file)) is not None:
            raise CoreError(
                "weights_not_finite",
                f"{file.name}: tensor '{name}' holds NaN or infinity: lower the method's rates",
                field="method",
            )
    sealed = manifest.seal(out, facts, key)
    return sorted(f for f in out.rglob("*") if f.is_file() and f not in sealed) + sealed

"""The bundle a job delivers: delta, fused checkpoint, report, pictures, model card, signed manifest."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.core import phrasing, sources
from expunge.core.delivery import card, certificate, convert, manifest, page, review, signing, stack
from expunge.core.delivery.fused import SINGLE, fuse
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


def media_type(file: Path) -> str:
    """The media type of a bundle's file."""
    return certificate.MEDIA_TYPE if file.name == certificate.FILE else MEDIA_TYPES[file.suffix]


@dataclass(frozen=True)
class Bundle:
    """The folder that a job delivers, and what the manifest of every kind of job states.

    base: the base model's id; source: where the model was loaded from; context: the caller's own facts.
    """

    folder: Path
    model: Denoiser
    base: str
    source: str
    signing_key: signing.Key | None
    context: dict[str, Any]

    def write_report(
        self, evaluation: Evaluation, facts: dict[str, Any], history: Sequence[dict[str, Any]] = ()
    ) -> None:
        """report.json, report.html, grid.png, and detections.json where NudeNet looked.

        facts: title, summary, limits and details for the page; history: of the training.
        """
        (self.folder / "report.json").write_text(evaluation.report.model_dump_json(indent=1) + "\n")
        (self.folder / "report.html").write_text(page.render_report(evaluation, history, facts))
        draw_grid(evaluation, self.folder / "grid.png")
        if evaluation.detections:
            detections = json.dumps(evaluation.detections, indent=1)
            (self.folder / "detections.json").write_text(detections + "\n")

    def write_card(
        self,
        layers: Sequence[stack.Layer],
        evaluation: Evaluation | None,
        *,
        fused: bool,
        hidden: bool = False,
        words: Sequence[str] = (),
    ) -> None:
        """README.md, the model card."""
        text = card.render_card(
            self.model,
            self.source,
            self.base,
            [(layer.method, layer.concepts) for layer in layers],
            evaluation.report if evaluation else None,
            fused=fused,
            single=(self.folder / SINGLE).exists(),
            hidden=hidden,
            words=words,
        )
        (self.folder / "README.md").write_text(text)

    def seal(self, kind: str, facts: dict[str, Any]) -> list[Path]:
        """Seal the folder, with what every manifest states and these facts; returns the bundle's files."""
        shared = {"kind": kind, "context": self.context, "base_model": self.base_facts()}
        shared["device"] = device_of(self.model)
        return seal(self.folder, shared | facts, self.signing_key)

    def base_facts(self) -> dict[str, Any]:
        """The base model's id and digest; its source too, unless that is a path of this machine."""
        facts = {"id": self.base, "sha256": self.model.digest}
        if sources.parse(self.source).kind != "local":
            facts["source"] = self.source.partition("#")[0]
        return facts


def seal(folder: Path, facts: dict[str, Any], key: signing.Key | None) -> list[Path]:
    """Write and sign the manifest of what the folder holds; returns the folder's files.

    Raises: CoreError where a tensor, read back from its file, holds NaN or infinity.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        if (name := not_finite(file)) is not None:
            raise CoreError(
                "weights_not_finite",
                f"{file.name}: tensor '{name}' holds NaN or infinity: lower the method's rates",
                field="method",
            )
    sealed = manifest.seal(folder, facts, key)
    files = [file for file in folder.rglob("*") if file.is_file() and file not in sealed]
    return sorted(files) + sealed


def write_erasure(
    bundle: Bundle,
    spec: EraseSpec,
    delta: Delta,
    evaluation: Evaluation | None,
    *,
    layers: Sequence[stack.Layer] = (),
    lessons: Sequence[Lesson] = (),
    asked: EraseSpec | None = None,
    recovery_key: dict[str, Any] | None = None,
) -> list[Path]:
    """Everything around the delta file, which is in the folder already; returns the bundle's files.

    layers: of a stack, its erasures, oldest first; lessons: the words that were learned; asked: the request
    as it came; recovery_key: of a hide job, what the manifest states of it.
    """
    asked = asked or spec
    model, hidden = bundle.model, isinstance(spec, HideSpec)
    digest = manifest.sha256(bundle.folder / delta.file)
    info = {name: value for name, value in delta.info.items() if name != "history"}
    layers = list(layers) or [stack.Layer(concepts=spec.concepts, method=spec.method.name, sha256=digest)]

    # The same LoRA for other tools, and the fused checkpoint; of a mask always, since diffusers loads none
    if delta.kind == "lora":
        convert.write_kohya(bundle.folder)
    fuse_too = spec.fused or delta.kind == "sparse_mask"
    if fuse_too:
        fuse(model, bundle.source, bundle.folder / delta.file, bundle.folder)

    # The report and the card
    limits = card.list_limits(model.changes(), fuse_too, hidden, evaluation is not None)
    if evaluation is not None:
        concepts = phrasing.as_asked(stack.concepts_of(layers), spec.concepts, asked.concepts)
        deed = phrasing.infinitive(phrasing.deed(concepts, repr(spec.model), hidden))
        facts = {
            "title": phrasing.headline(concepts, evaluation.report.verdict.passed, hidden),
            "summary": f"{card.method_name(spec)} was run for {info.get('seconds', 0.0):.1f} s to {deed}.",
            "limits": limits,
            "asked": review.asked(concepts, asked),
            "lessons": [lesson_facts(model, lesson, spec.inversion.show_images) for lesson in lessons],
            "details": {
                "method": spec.method.model_dump_json(),
                "seed": spec.seed,
                "U-Net evaluations": info.get("unet_evaluations"),
                "LoRA residual": info.get("residual"),
                **manifest.libraries(),
            },
        }
        bundle.write_report(evaluation, facts, delta.info.get("history") or [])
    words = [lesson.word for lesson in lessons]
    bundle.write_card(layers, evaluation, fused=fuse_too, hidden=hidden, words=words)

    # The manifest
    stated: dict[str, Any] = {
        "delta": {
            "file": delta.file,
            "sha256": digest,
            "kind": delta.kind,
            "changes": delta.component,
            "residual": info.get("residual"),
            "training": info,
        }
    }
    if recovery_key is not None:
        stated["recovery_key"] = recovery_key
    stated |= {
        "limits": limits,
        "stack": stack.listed(layers),
        "spec": resolve_spec(asked),
        "learned": {word: model.words[word].shows for word in words},
        "seeds": {"training": spec.seed, **picture_seeds(evaluation)},
        **outcome_facts(evaluation),
    }
    return bundle.seal("hide" if hidden else "erase", stated)


def lesson_facts(model: Denoiser, lesson: Lesson, show_images: bool) -> dict[str, Any]:
    """What the report shows of a learned word: the images only where the request allows it."""
    return {
        "word": lesson.word,
        "shows": model.words[lesson.word].shows,
        "images": [data_uri(image) for image in lesson.images] if show_images else [],
    }


def resolve_spec(spec: EraseSpec) -> dict[str, Any]:
    """The spec with every default, and with everything that a variant or a null stands for."""
    method = resolved(spec.method) if isinstance(spec.method, AgeSpec) else spec.method
    if isinstance(method, PruneSpec):
        return resolve_prune_spec(spec, method)
    lora = getattr(method, "lora", None)
    if lora is not None and lora.alpha is None:
        method = method.model_copy(update={"lora": lora.model_copy(update={"alpha": float(lora.rank)})})
    return spec.model_copy(update={"method": method}).model_dump(mode="json")


def resolve_prune_spec(spec: EraseSpec, method: PruneSpec) -> dict[str, Any]:
    """A prune job's spec; its inner method without the fields that pruning does not read."""
    inner = resolved(method.method) if isinstance(method.method, AgeSpec) else method.method
    whole = spec.model_dump(mode="json")
    whole["method"]["method"] = inner.model_dump(mode="json", exclude=set(method.unread))
    return whole


def write_combination(
    bundle: Bundle, spec: CombineSpec, layers: Sequence[stack.Layer], evaluation: Evaluation | None
) -> list[Path]:
    """The bundle of several jobs' deltas, combined in a file that is in the folder already; returns its
    files.
    """
    delta = bundle.folder / LORA_FILE
    convert.write_kohya(bundle.folder)
    if spec.fused:
        fuse(bundle.model, bundle.source, delta, bundle.folder)
    if evaluation is not None:
        summary = f"The sum of {len(layers)} deltas of the model '{spec.model}'"
        if evaluation.report.restored:
            summary += f", without those for {phrasing.listing(evaluation.report.restored)}"
        facts = {
            "title": phrasing.headline(stack.concepts_of(layers), evaluation.report.verdict.passed),
            "summary": f"{summary}.",
            "limits": card.list_limits(bundle.model.changes(), spec.fused),
            "asked": review.asked(stack.concepts_of(layers), spec),
            "details": {"jobs": ", ".join(spec.jobs), **manifest.libraries()},
        }
        bundle.write_report(evaluation, facts)
    bundle.write_card(layers, evaluation, fused=spec.fused)
    stated = {
        "delta": {"file": LORA_FILE, "sha256": manifest.sha256(delta), "residual": 0.0},
        "stack": stack.listed(layers),
        "spec": spec.model_dump(mode="json"),
        "preserve": [] if evaluation is None else evaluation.report.restored,
        "seeds": picture_seeds(evaluation),
        **outcome_facts(evaluation),
    }
    return bundle.seal("combine", stated)


def write_evaluation(
    bundle: Bundle,
    spec: EvaluateSpec,
    concepts: Sequence[Concept],
    delta_digest: str | None,
    evaluation: Evaluation,
    *,
    held: Sequence[str] | None = None,
    preserve: Sequence[str] = (),
) -> list[Path]:
    """The bundle of an evaluation: the report, bound to the delta's sha256; returns its files.

    held, preserve: what the judged job's training saw, and what it was to preserve.
    """
    judged = f"delta {delta_digest[:12]}… on the model" if delta_digest else "the base model"
    limits = card.list_limits(bundle.model.changes(), fused=False)
    facts = {
        "title": phrasing.headline(concepts, evaluation.report.verdict.passed),
        "summary": f"Evaluation of {judged} '{spec.model}'.",
        "limits": limits,
        "asked": review.asked(concepts, spec),
        "details": {"delta": delta_digest or "none", **manifest.libraries()},
    }
    bundle.write_report(evaluation, facts)
    stated = {
        "delta": {"sha256": delta_digest},
        "held": held,
        "preserve": list(preserve),
        "limits": limits,
        "spec": spec.model_dump(mode="json"),
        "seeds": picture_seeds(evaluation),
        **outcome_facts(evaluation),
    }
    return bundle.seal("evaluate", stated)


def key_facts(key: RecoveryKey, file: Path, spec: HideSpec) -> dict[str, Any]:
    """What a manifest states of the recovery key: digests, never a value of it.

    `sha256` is that of the file; `plain_sha256` is that of the key itself, which a sealed file hides.
    """
    return {
        "file": file.name,
        "sha256": manifest.sha256(file),
        "plain_sha256": hashlib.sha256(key.serialise()).hexdigest(),
        "sealed_to": spec.seal_to,
        "concepts": list(key.prompts),
        "length": spec.recovery.length,
    }


def picture_seeds(evaluation: Evaluation | None) -> dict[str, Any]:
    """The first and the last seed of the pictures; empty where none was drawn."""
    if evaluation is None or not evaluation.pictures:
        return {}
    seeds = [picture.seed for picture in evaluation.pictures]
    return {"pictures": [min(seeds), max(seeds)]}


def outcome_facts(evaluation: Evaluation | None) -> dict[str, Any]:
    """The report's outcome, to which the signature binds the bundle."""
    if evaluation is None:
        return {"judges": {}, "verdict": None}
    report = evaluation.report
    return {
        "judges": report.digests,
        "verdict": report.verdict.model_dump(),
        "erased": report.erased,
        "preserved": report.preserved,
    }


def device_of(model: Denoiser) -> str:
    """What a model computes on, as far as its numbers depend on it: 'cpu AVX512', 'cuda NVIDIA H100'."""
    kind = torch.device(model.device).type
    name = torch.cuda.get_device_name() if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{kind} {name}"

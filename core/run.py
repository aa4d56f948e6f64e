"""A job's whole science: load, erase, judge, deliver. What a worker and a notebook call."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from expunge.core.concepts.visual_concepts import learn, named
from expunge.core.delivery import bundle, lora_file, signing, stack
from expunge.core.delivery.inspection import write_inspection
from expunge.core.delta_format import ADDED_FILE, LORA_FILE
from expunge.core.delta_format.check import check_delta
from expunge.core.erasure import Delta, erase
from expunge.core.erasure.delta import forget_peak, peak_memory
from expunge.core.errors import CoreError
from expunge.core.evaluation.advice import Request, advise
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.pictures import draw, plan, prune
from expunge.core.evaluation.predicted_impact import foreseen
from expunge.core.evaluation.report import Evaluation, Metric, Report
from expunge.core.hiding import RecoveryKey, hide
from expunge.core.inspection import Side, inspect
from expunge.core.models import Denoiser, load_model, word_embeddings
from expunge.core.outcome import Outcome, Output
from expunge.core.progress import Callback, Checkpoints, show
from expunge.core.specs import (
    CombineSpec,
    Concept,
    EraseSpec,
    EvaluateSpec,
    EvaluationSpec,
    HideSpec,
    InspectSpec,
    same,
)

NO_DELTA = "none"
At = str | Path
SHOWN = 8  # concepts of an inspection whose pictures are drawn


def run_erase(
    spec: EraseSpec,
    out: At,
    *,
    source: str,
    callback: Callback = show,
    checkpoints: Checkpoints | None = None,
    cache: At,
    signing_key: signing.Key | None = None,
    context: dict[str, Any] | None = None,
    base: At | None = None,
    base_report: At | None = None,
    images: Mapping[str, At] = {},
) -> Outcome:
    """Erase, judge, and write the bundle into `out` (new or empty). Run again after a crash, it resumes from
    the checkpoint and the cached pictures.

    `base` is the delta file of an earlier job whose sanitized model this one starts from, `base_report` what
    was measured of it. `images` are the uploads that concepts name, by artifact id: their words are learned
    first, and delivered.
    """
    begun = time.monotonic()
    out, cache = empty_folder(out), Path(cache)
    base, base_report, uploads = at(base), at(base_report), {id_: Path(file) for id_, file in images.items()}
    callback({"phase": "load", "step": 0, "total": 1})
    model = load_model(source)
    model.cache = cache
    warn_of_cut(model, spec.concepts, spec.preserve, callback)
    part = stack.read(base) if base is not None else None
    asked = spec
    spec, lessons, checkpoints = learn(model, spec, uploads, callback, checkpoints)
    # A word may be longer than a file's name may be; the file says whose it is
    for n, lesson in enumerate(lessons, start=1):
        word_embeddings.write(out / f"embedding-{n}.safetensors", lesson.word, model.words[lesson.word])
    concepts = list(spec.concepts)
    if part is None:
        delta = erase(model, spec, callback=callback, checkpoints=checkpoints)
        data = lora_file.to_bytes(delta, model, spec)
    else:
        delta, data, part = erase_onto(model, spec, part, out, callback, checkpoints)
        concepts = part.concepts
    (out / delta.file).write_bytes(data)
    evaluation = None
    if spec.evaluation.enabled:
        digest = hashlib.sha256(data).hexdigest()
        evaluation = judged(model, source, spec, concepts, spec.preserve, digest, cache, callback)
        add_costs(evaluation, time.monotonic() - begun, delta)
        evaluation.report.impact = foreseen(model, concepts, spec.method, evaluation.report)
        if part is not None:
            before = Report.model_validate_json(base_report.read_text()) if base_report else None
            evaluation.report.stack = stack.compared(part.layers, evaluation.report, before)
    callback({"phase": "deliver", "step": 0, "total": 1})
    files = bundle.write_erasure(
        out,
        model,
        source,
        spec,
        delta,
        evaluation,
        layers=part.layers if part else (),
        lessons=lessons,
        asked=asked,
        key=signing_key,
        context=context or {},
    )
    callback({"phase": "deliver", "step": 1, "total": 1})
    return outcome(out, evaluation, files)


def warn_of_cut(
    model: Denoiser, concepts: Sequence[Concept], others: Sequence[str], callback: Callback
) -> None:
    """Report each text that the text encoder reads only the beginning of."""
    texts = [
        text
        for c in concepts
        for text in (c.name, *c.synonyms, *c.attributes, *([c.target] if c.target else []))
    ]
    for text in model.cut(list(dict.fromkeys([*texts, *others]))):
        longest = model.pipe.tokenizer.model_max_length
        callback(
            {
                "phase": "load",
                "step": 1,
                "total": 1,
                "message": (
                    f"'{text}' has more than the {longest} tokens that the text encoder reads: its end is not"
                    " seen"
                ),
            }
        )


def erase_onto(
    model: Denoiser,
    spec: EraseSpec,
    part: stack.Part,
    out: Path,
    callback: Callback,
    checkpoints: Checkpoints | None,
) -> tuple[Delta, bytes, stack.Part]:
    """Erase from an earlier sanitized model: this job's own delta into `out`; the whole stack's bytes, which
    the model wears afterwards.
    """
    with model.built_on(part.tensors, part.config, part.layers[-1].sha256, part.concepts):
        own = erase(model, spec, callback=callback, checkpoints=checkpoints)
    data = lora_file.to_bytes(own, model, spec)
    (out / ADDED_FILE).write_bytes(data)
    layer = stack.Layer(
        concepts=spec.concepts, method=spec.method.name, sha256=hashlib.sha256(data).hexdigest()
    )
    whole = stack.combine([(part.tensors, part.config), (own.tensors, own.config)])
    layers = [*part.layers, layer]
    data = lora_file.to_bytes(whole, model, spec, stack.described(layers))
    (out / LORA_FILE).write_bytes(data)
    model.load_delta(out / LORA_FILE)
    whole.info = own.info
    return whole, data, stack.Part(whole.tensors, whole.config, layers)


def run_combine(
    spec: CombineSpec,
    out: At,
    *,
    source: str,
    deltas: Sequence[At],
    restored: Sequence[str] = (),
    callback: Callback = show,
    cache: At,
    signing_key: signing.Key | None = None,
    context: dict[str, Any] | None = None,
) -> Outcome:
    """Sum jobs' own deltas into one, judge it, and write the bundle into `out`.

    `restored`: concepts whose job was left out.
    """
    begun = time.monotonic()
    out, cache = empty_folder(out), Path(cache)
    callback({"phase": "load", "step": 0, "total": 1})
    model = load_model(source)
    parts = [stack.read(delta) for delta in deltas]
    layers = [part.layers[-1] for part in parts]
    whole = stack.combine([(part.tensors, part.config) for part in parts])
    concepts = stack.unique([c for layer in layers for c in layer.concepts])
    data = whole.serialise(stack.metadata(layers, model, spec.model))
    (out / LORA_FILE).write_bytes(data)
    model.load_delta(out / LORA_FILE)
    evaluation = None
    if spec.evaluation.enabled:
        back = [name for name in restored if not any(same(name, c.name) for c in concepts)]
        evaluation = judged(
            model, source, spec, concepts, back, hashlib.sha256(data).hexdigest(), cache, callback
        )
        add_costs(evaluation, time.monotonic() - begun, None)
        evaluation.report.stack, evaluation.report.restored = (
            stack.compared(layers, evaluation.report, None),
            back,
        )
    callback({"phase": "deliver", "step": 0, "total": 1})
    files = bundle.write_combination(
        out, model, source, spec, layers, evaluation, key=signing_key, context=context or {}
    )
    callback({"phase": "deliver", "step": 1, "total": 1})
    return outcome(out, evaluation, files)


def run_hide(
    spec: HideSpec,
    out: At,
    *,
    source: str,
    key_folder: At,
    callback: Callback = show,
    checkpoints: Checkpoints | None = None,
    cache: At,
    signing_key: signing.Key | None = None,
    context: dict[str, Any] | None = None,
) -> Outcome:
    """Hide, judge, write the bundle into `out`, and the recovery key into `key_folder`: outside the bundle,
    whose manifest holds its digest alone.
    """
    begun = time.monotonic()
    out, cache = empty_folder(out), Path(cache)
    callback({"phase": "load", "step": 0, "total": 1})
    model = load_model(source)
    warn_of_cut(model, spec.concepts, spec.preserve, callback)
    delta, prompts = hide(model, spec, callback=callback, checkpoints=checkpoints)
    data = lora_file.to_bytes(delta, model, spec)
    (out / LORA_FILE).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    key = RecoveryKey(prompts, model.digest, digest)
    key_file = key.save(key_folder, spec.seal_to)
    evaluation = None
    if spec.evaluation.enabled:
        evaluation = judged(
            model, source, spec, spec.concepts, spec.preserve, digest, cache, callback, keys=prompts
        )
        add_costs(evaluation, time.monotonic() - begun, delta)
    callback({"phase": "deliver", "step": 0, "total": 1})
    more = (context or {}) | {"kind": "hide"}
    files = bundle.write_erasure(
        out,
        model,
        source,
        spec,
        delta,
        evaluation,
        key=signing_key,
        context=more,
        recovery_key=bundle.key_facts(key, key_file, spec),
    )
    callback({"phase": "deliver", "step": 1, "total": 1})
    found = outcome(out, evaluation, files)
    media_type = "application/octet-stream" if spec.seal_to else bundle.MEDIA_TYPES[".safetensors"]
    found.outputs.append(Output(key_file.name, media_type, key_file, "recovery_key"))
    return found


def run_evaluate(
    spec: EvaluateSpec,
    out: At,
    *,
    source: str,
    delta: At | None,
    concepts: Sequence[Concept],
    words: Sequence[At] = (),
    callback: Callback = show,
    cache: At,
    signing_key: signing.Key | None = None,
    context: dict[str, Any] | None = None,
) -> Outcome:
    """Judge a delta (or, without one, the base model) and write the report's bundle into `out`.

    `words`: files of learned words it changed.
    """
    begun = time.monotonic()
    out, cache, delta = empty_folder(out), Path(cache), at(delta)
    callback({"phase": "load", "step": 0, "total": 1})
    model = load_model(source)
    model.cache = cache
    warn_of_cut(model, concepts, spec.evaluation.preserved_concepts or [], callback)
    concepts = named(concepts)
    for file in words:
        name, word = word_embeddings.read(Path(file))
        model.learn(name, word.vectors, word.shows)
    digest = None
    if delta is not None:
        check_delta(delta, source)
        model.load_delta(delta)
        digest = hashlib.sha256(delta.read_bytes()).hexdigest()
    evaluation = judged(model, source, spec, concepts, [], digest or NO_DELTA, cache, callback)
    add_costs(evaluation, time.monotonic() - begun, None)
    callback({"phase": "deliver", "step": 0, "total": 1})
    files = bundle.write_evaluation(
        out, model, source, spec, concepts, digest, evaluation, key=signing_key, context=context or {}
    )
    callback({"phase": "deliver", "step": 1, "total": 1})
    return outcome(out, evaluation, files)


def run_inspect(
    spec: InspectSpec,
    out: At,
    *,
    source: str,
    delta: At,
    against: At | None = None,
    callback: Callback = show,
    cache: At,
    signing_key: signing.Key | None = None,
    context: dict[str, Any] | None = None,
) -> Outcome:
    """Rank what moved from the base model (or from the delta `against`) to the model with `delta`, and write
    the report's bundle into `out`.
    """
    out, cache, delta, against = empty_folder(out), Path(cache), Path(delta), at(against)
    callback({"phase": "load", "step": 0, "total": 1})
    sides, digests = list[Denoiser](), list[str]()
    for file in (delta, against) if against else (delta,):
        check_delta(file, source)
        model = load_model(source)
        model.cache = cache
        model.load_delta(file)
        sides.append(model)
        digests.append(hashlib.sha256(file.read_bytes()).hexdigest())
    after, before = Side(sides[0]), Side(sides[-1], base=against is None)
    report = inspect(before, after, spec, callback)
    report.digests = {
        "base_model": after.model.digest,
        "theta_prime": digests[0],
        "theta": digests[1] if against else after.model.digest,
    }
    drawn = None
    if spec.pictures:
        shown = [report.changed, *(row.concept for row in report.ranking[:SHOWN])]
        how = EvaluationSpec(
            preserved_images=spec.pictures, sampling_steps=spec.sampling_steps, seed=spec.seed
        )
        pictures = plan(after.model.vocabulary, [], shown, how)
        old = draw(
            before.model,
            pictures,
            how,
            cache=cache,
            delta_digest=digests[1] if against else None,
            callback=callback,
        )
        drawn = (
            pictures,
            old,
            draw(after.model, pictures, how, cache=cache, delta_digest=digests[0], callback=callback),
        )
        prune(cache)
    callback({"phase": "deliver", "step": 0, "total": 1})
    files = write_inspection(
        out, after.model, source, spec, report, drawn, key=signing_key, context=context or {}
    )
    callback({"phase": "deliver", "step": 1, "total": 1})
    return outcome(out, None, files)


def judged(
    model: Denoiser,
    source: str,
    request: Request,
    concepts: Sequence[Concept],
    preserve: Sequence[str],
    digest: str,
    cache: Path,
    callback: Callback,
    keys: Mapping[str, Tensor] = {},
) -> Evaluation:
    """What `evaluate` found, as the request has it judged, with advice where the verdict is no pass."""
    callback({"phase": "load", "step": 1, "total": 1, "message": "judges"})
    judges = judges_for(source, str(model.device))
    evaluation = evaluate(
        model,
        concepts,
        request.evaluation,
        judges=judges,
        cache=cache,
        delta_digest=digest,
        preserve=preserve,
        keys=keys,
        callback=callback,
    )
    evaluation.report.verdict.advice = advise(evaluation.report, request, concepts)
    prune(cache)
    return evaluation


def add_costs(evaluation: Evaluation, seconds: float, delta: Delta | None) -> None:
    """Wall seconds of this attempt, seconds of the erasure alone, peak bytes of this process; a leakage that
    the method measured.
    """
    costs = {"wall_seconds": seconds, "peak_memory_bytes": float(peak_memory())}
    if delta is not None and "seconds" in delta.info:
        costs["wall_seconds_erase"] = delta.info["seconds"]
    evaluation.report.metrics += [Metric(name=name, value=value, n=1) for name, value in costs.items()]
    if delta is not None and "leakage_nats" in delta.info:
        evaluation.report.metrics.append(
            Metric(name="leakage_nats", value=delta.info["leakage_nats"], n=delta.info["leakage_pictures"])
        )


def at(path: At | None) -> Path | None:
    return None if path is None else Path(path)


def empty_folder(out: At) -> Path:
    """The folder that a job begins in. CoreError where it is not empty."""
    forget_peak()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise CoreError(
            "folder_not_empty",
            f"'{out}' is not empty: give a new folder, so that the manifest lists this run's files alone",
            field="out",
        )
    return out


def outcome(out: Path, evaluation: Evaluation | None, files: list[Path]) -> Outcome:
    verdict = evaluation.report.verdict.model_dump(mode="json") if evaluation else None
    return Outcome(
        verdict, [Output(f.relative_to(out).as_posix(), bundle.MEDIA_TYPES[f.suffix], f) for f in files]
    )


__all__ = [
    "Outcome",
    "Output",
    "check_delta",
    "run_combine",
    "run_erase",
    "run_evaluate",
    "run_hide",
    "run_inspect",
]

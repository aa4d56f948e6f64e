"""A job's whole science: load, change, judge, deliver. What a worker and a notebook call."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.delivery import bundle, lora_file, signing, stack
from expunge.core.delivery.inspection import write_inspection
from expunge.core.delta_format import ADDED_FILE, LORA_FILE
from expunge.core.delta_format.check import check_delta
from expunge.core.erasure import Delta, erase
from expunge.core.erasure.delta import forget_peak, peak_memory
from expunge.core.erasure.visual_concepts import learn, named
from expunge.core.errors import CoreError
from expunge.core.evaluation.advice import Request, advise
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.pictures import draw, plan, prune
from expunge.core.evaluation.predicted_impact import foreseen
from expunge.core.evaluation.report import Evaluation, Metric, Report
from expunge.core.hiding import RecoveryKey, hide
from expunge.core.inspection import Inspection, Side, inspect
from expunge.core.models import Denoiser, load_model, word_embeddings
from expunge.core.outcome import Outcome, Output
from expunge.core.progress import Callback, show
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


@dataclass
class Run:
    """What every kind of job is run with.

    out: the bundle's folder, new or empty; source: the base model; cache: where pictures are kept between
    attempts; context: facts of the caller's that the manifest holds.
    """

    out: Path
    source: str
    cache: Path
    callback: Callback
    signing_key: signing.Key | None
    context: dict[str, Any]
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(
        cls,
        out: At,
        source: str,
        cache: At,
        callback: Callback,
        signing_key: signing.Key | None,
        context: dict[str, Any] | None,
    ) -> "Run":
        """Begin in an empty folder. Raises: CoreError where it is not empty."""
        return cls(empty_folder(out), source, Path(cache), callback, signing_key, context or {})

    def load(self) -> Denoiser:
        """The base model; its concept spaces are kept in the cache."""
        self.callback({"phase": "load", "step": 0, "total": 1})
        model = load_model(self.source)
        model.cache = self.cache
        return model

    def judge(
        self,
        model: Denoiser,
        request: Request,
        concepts: Sequence[Concept],
        preserve: Sequence[str],
        delta_digest: str,
        keys: Mapping[str, Tensor] = {},
    ) -> Evaluation:
        """Judge the model as it stands; the report has its advice where the verdict is not a pass."""
        self.callback({"phase": "load", "step": 1, "total": 1, "message": "judges"})
        evaluation = evaluate(
            model,
            concepts,
            request.evaluation,
            judges=judges_for(self.source, str(model.device)),
            cache=self.cache,
            delta_digest=delta_digest,
            preserve=preserve,
            keys=keys,
            callback=self.callback,
        )
        evaluation.report.verdict.advice = advise(evaluation.report, request, concepts)
        prune(self.cache)
        return evaluation

    def add_costs(self, report: Report, delta: Delta | None = None) -> None:
        """What the job cost: wall seconds of this attempt, seconds of the erasure alone, peak bytes of this
        process; and the leakage, where the method measured it.
        """
        info = delta.info if delta is not None else {}
        costs = {"wall_seconds": time.monotonic() - self.begun, "peak_memory_bytes": float(peak_memory())}
        if "seconds" in info:
            costs["wall_seconds_erase"] = info["seconds"]
        report.metrics += [Metric(name=name, value=value, n=1) for name, value in costs.items()]
        if "leakage_nats" in info:
            n = info["leakage_pictures"]
            report.metrics.append(Metric(name="leakage_nats", value=info["leakage_nats"], n=n))

    def deliver(self, write: Callable[[], list[Path]], evaluation: Evaluation | None) -> Outcome:
        """Let `write` make the bundle; what the job ends with."""
        self.callback({"phase": "deliver", "step": 0, "total": 1})
        files = write()
        self.callback({"phase": "deliver", "step": 1, "total": 1})
        verdict = evaluation.report.verdict.model_dump(mode="json") if evaluation else None
        outputs = [Output(f.relative_to(self.out).as_posix(), bundle.MEDIA_TYPES[f.suffix], f) for f in files]
        return Outcome(verdict, outputs)


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

    base: the delta file of an earlier job whose sanitized model this one starts from; base_report: what was
    measured of it. images: the uploads that concepts name, by artifact id: their words are learned first, and
    delivered.
    """
    run, asked = Run.begin(out, source, cache, callback, signing_key, context), spec

    # 1. Load the base model, and the erasures that this one stands on.
    model = run.load()
    warn_of_cut(model, spec.concepts, spec.preserve, callback)
    part = stack.read(Path(base)) if base is not None else None

    # 2. Learn the words of concepts that are given by images. A word may be longer than a file's name may
    #    be, so its file is numbered, and says whose it is.
    uploads = {id_: Path(file) for id_, file in images.items()}
    spec, lessons, checkpoints = learn(model, spec, uploads, callback, checkpoints)
    for n, lesson in enumerate(lessons, start=1):
        file = run.out / f"embedding-{n}.safetensors"
        word_embeddings.write(file, lesson.word, model.words[lesson.word])

    # 3. Erase.
    concepts = list(spec.concepts)
    if part is None:
        delta = erase(model, spec, callback=callback, checkpoints=checkpoints)
        data = lora_file.to_bytes(delta, model, spec)
    else:
        delta, data, part = erase_onto(model, spec, part, run.out, callback, checkpoints)
        concepts = part.concepts
    (run.out / delta.file).write_bytes(data)

    # 4. Judge, and complete the report.
    evaluation = None
    if spec.evaluation.enabled:
        evaluation = run.judge(model, spec, concepts, spec.preserve, sha256_of(data))
        report = evaluation.report
        run.add_costs(report, delta)
        report.impact = foreseen(model, concepts, spec.method, report)
        if part is not None:
            before = Report.model_validate_json(Path(base_report).read_text()) if base_report else None
            report.stack = stack.compared(part.layers, report, before)

    # 5. Deliver.
    def write() -> list[Path]:
        return bundle.write_erasure(
            run.out,
            model,
            source,
            spec,
            delta,
            evaluation,
            layers=part.layers if part else (),
            lessons=lessons,
            asked=asked,
            key=signing_key,
            context=run.context,
        )

    return run.deliver(write, evaluation)


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
    # This job's own delta, learned on the earlier model …
    with model.built_on(part.tensors, part.config, part.layers[-1].sha256, part.concepts):
        own = erase(model, spec, callback=callback, checkpoints=checkpoints)
    data = lora_file.to_bytes(own, model, spec)
    (out / ADDED_FILE).write_bytes(data)
    layer = stack.Layer(concepts=spec.concepts, method=spec.method.name, sha256=sha256_of(data))

    # … and the sum of both, which is what is delivered and judged.
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

    restored: concepts whose job was left out.
    """
    run = Run.begin(out, source, cache, callback, signing_key, context)

    # 1. Load the base model, and sum the deltas.
    model = run.load()
    parts = [stack.read(Path(delta)) for delta in deltas]
    layers = [part.layers[-1] for part in parts]
    whole = stack.combine([(part.tensors, part.config) for part in parts])
    data = whole.serialise(stack.metadata(layers, model, spec.model))
    (run.out / LORA_FILE).write_bytes(data)
    model.load_delta(run.out / LORA_FILE)

    # 2. Judge, and complete the report.
    concepts = stack.unique([c for layer in layers for c in layer.concepts])
    evaluation = None
    if spec.evaluation.enabled:
        back = [name for name in restored if not any(same(name, c.name) for c in concepts)]
        evaluation = run.judge(model, spec, concepts, back, sha256_of(data))
        report = evaluation.report
        run.add_costs(report)
        report.stack, report.restored = stack.compared(layers, report, None), back

    # 3. Deliver.
    def write() -> list[Path]:
        return bundle.write_combination(
            run.out, model, source, spec, layers, evaluation, key=signing_key, context=run.context
        )

    return run.deliver(write, evaluation)


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
    run = Run.begin(out, source, cache, callback, signing_key, context)

    # 1. Load the base model.
    model = run.load()
    warn_of_cut(model, spec.concepts, spec.preserve, callback)

    # 2. Hide.
    delta, prompts = hide(model, spec, callback=callback, checkpoints=checkpoints)
    data = lora_file.to_bytes(delta, model, spec)
    (run.out / LORA_FILE).write_bytes(data)
    key = RecoveryKey(prompts, model.digest, sha256_of(data))
    key_file = key.save(key_folder, spec.seal_to)

    # 3. Judge, with the key and without.
    evaluation = None
    if spec.evaluation.enabled:
        evaluation = run.judge(model, spec, spec.concepts, spec.preserve, sha256_of(data), keys=prompts)
        run.add_costs(evaluation.report, delta)

    # 4. Deliver the bundle; the key beside it.
    def write() -> list[Path]:
        return bundle.write_erasure(
            run.out,
            model,
            source,
            spec,
            delta,
            evaluation,
            key=signing_key,
            context=run.context | {"kind": "hide"},
            recovery_key=bundle.key_facts(key, key_file, spec),
        )

    delivered = run.deliver(write, evaluation)
    media_type = "application/octet-stream" if spec.seal_to else bundle.MEDIA_TYPES[".safetensors"]
    delivered.outputs.append(Output(key_file.name, media_type, key_file, "recovery_key"))
    return delivered


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

    words: files of the learned words that it changed.
    """
    run = Run.begin(out, source, cache, callback, signing_key, context)

    # 1. Load the base model, the words that concepts were given by, and the delta.
    model = run.load()
    warn_of_cut(model, concepts, spec.evaluation.preserved_concepts or [], callback)
    concepts = named(concepts)
    for file in words:
        name, word = word_embeddings.read(Path(file))
        model.learn(name, word.vectors, word.shows)
    digest = None
    if delta is not None:
        check_delta(delta, source)
        model.load_delta(delta)
        digest = sha256_of(Path(delta).read_bytes())

    # 2. Judge.
    evaluation = run.judge(model, spec, concepts, [], digest or NO_DELTA)
    run.add_costs(evaluation.report)

    # 3. Deliver.
    def write() -> list[Path]:
        return bundle.write_evaluation(
            run.out, model, source, spec, concepts, digest, evaluation, key=signing_key, context=run.context
        )

    return run.deliver(write, evaluation)


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
    run = Run.begin(out, source, cache, callback, signing_key, context)

    # 1. Load both models: theta' wears the delta; theta the other one, or is the base model.
    after, digest = with_delta(run, Path(delta))
    before, other = Side(after.model, base=True), None
    if against is not None:
        before, other = with_delta(run, Path(against))

    # 2. Rank.
    report = inspect(before, after, spec, callback)
    base_digest = after.model.digest
    report.digests = {"base_model": base_digest, "theta_prime": digest, "theta": other or base_digest}

    # 3. Draw what moved most, by both.
    drawn = None
    if spec.pictures:
        drawn = draw_inspection(run, spec, report, (before, other), (after, digest))

    # 4. Deliver.
    def write() -> list[Path]:
        return write_inspection(
            run.out, after.model, source, spec, report, drawn, key=signing_key, context=run.context
        )

    return run.deliver(write, None)


def with_delta(run: Run, delta: Path) -> tuple[Side, str]:
    """A model that wears a delta, once that is known to fit; and the delta's sha256."""
    check_delta(delta, run.source)
    model = run.load()
    model.load_delta(delta)
    return Side(model), sha256_of(delta.read_bytes())


def draw_inspection(
    run: Run,
    spec: InspectSpec,
    report: Inspection,
    before: tuple[Side, str | None],
    after: tuple[Side, str],
) -> tuple[Any, Any, Any]:
    """Pictures of what was changed and of what moved most: what was asked for, and what each model draws.

    before, after: each model, and the sha256 of the delta that it wears.
    """
    shown = [report.changed, *(row.concept for row in report.ranking[:SHOWN])]
    how = EvaluationSpec(preserved_images=spec.pictures, sampling_steps=spec.sampling_steps, seed=spec.seed)
    pictures = plan(after[0].model.vocabulary, [], shown, how)
    old, new = (
        draw(side.model, pictures, how, cache=run.cache, delta_digest=digest, callback=run.callback)
        for side, digest in (before, after)
    )
    prune(run.cache)
    return pictures, old, new


def warn_of_cut(
    model: Denoiser, concepts: Sequence[Concept], others: Sequence[str], callback: Callback
) -> None:
    """Report each text that the text encoder reads only the beginning of."""
    texts = list[str]()
    for c in concepts:
        texts += [c.name, *c.synonyms, *c.attributes, *([c.target] if c.target else [])]
    for text in model.text.too_long(list(dict.fromkeys([*texts, *others]))):
        longest = model.text.max_tokens
        message = f"'{text}' is longer than the text encoder's {longest} tokens; the rest is ignored"
        callback({"phase": "load", "step": 1, "total": 1, "message": message})


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def empty_folder(out: At) -> Path:
    """The folder that a job begins in. Raises: CoreError where it is not empty."""
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

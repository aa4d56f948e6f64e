"""A job's whole science: load, change, judge, deliver. What a worker and a notebook call."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.checkpoints import Checkpoints
from expunge.core.concepts import banned_words, remaining
from expunge.core.delivery import lora_file, signing, stack
from expunge.core.delivery.bundle import (
    MEDIA_TYPES,
    key_facts,
    write_combination,
    write_erasure,
    write_evaluation,
)
from expunge.core.delivery.inspection import Drawn, write_inspection
from expunge.core.delivery.manifest import held_of, preserve_of
from expunge.core.delta_format import ADDED_FILE, LORA_FILE
from expunge.core.delta_format.check import check_delta
from expunge.core.erasure import Delta, erase
from expunge.core.erasure.registry import check_fits
from expunge.core.erasure.visual_concepts import learn, named
from expunge.core.evaluation.pictures import draw, plan, prune
from expunge.core.evaluation.report import Report
from expunge.core.hiding import RecoveryKey, hide
from expunge.core.inspection import Inspection, Side, inspect
from expunge.core.models import Denoiser, word_embeddings
from expunge.core.outcome import Outcome, Output
from expunge.core.progress import Callback, show
from expunge.core.run_context import NO_DELTA, At, Change, RunContext, sha256_of, warn_of_long_texts
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
from expunge.core.specs.cost import RANKED


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
    prompt_set: At | None = None,
    judge_file: At | None = None,
    base: At | None = None,
    base_report: At | None = None,
    images: Mapping[str, At] = {},
) -> Outcome:
    """Erase, judge, and write the bundle into `out` (new or empty). Run again after a crash, it resumes from
    the checkpoint and the cached pictures.

    base: the delta file of an earlier job whose sanitized model this one starts from; base_report: what was
    measured of it. images: the uploads that concepts name, by artifact id: their words are learned first, and
    delivered. prompt_set: the file that evaluation.prompts means; judge_file: the one that evaluation.judge
    means.
    """
    run, asked = (
        RunContext.begin(out, source, cache, callback, signing_key, context, prompt_set, judge_file),
        spec,
    )

    # 1. Load the base model, and the erasures that this one stands on.
    model = run.load()
    check_fits(model, spec.method)  # before words are learned
    warn_of_long_texts(model, spec.concepts, spec.preserve, callback)
    part = stack.read(Path(base)) if base is not None else None

    # 2. Learn the words of concepts that are given by images. A word may be longer than a file's name may
    #    be, so its file is numbered, and says whose it is.
    uploads = {id_: Path(file) for id_, file in images.items()}
    spec, lessons, checkpoints = learn(model, spec, uploads, callback, checkpoints)
    for n, lesson in enumerate(lessons, start=1):
        file = run.out / f"embedding-{n}.safetensors"
        word_embeddings.write(file, lesson.word, model.words[lesson.word])

    # 3. Erase.
    if part is None:
        delta = erase(model, spec, callback=callback, checkpoints=checkpoints)
        data = lora_file.to_bytes(delta, model, spec)
    else:
        delta, data, part = erase_onto(model, spec, part, run, checkpoints)
    (run.out / delta.file).write_bytes(data)
    concepts = part.concepts if part else list(spec.concepts)
    layers = part.layers if part else []

    # 4. Judge.
    evaluation = None
    if spec.evaluation.enabled:
        before = Report.model_validate_json(Path(base_report).read_text()) if base_report else None
        change = Change(concepts, sha256_of(data), delta, spec.method, layers, before)
        evaluation = run.judge(model, spec, change, spec.preserve)

    # 5. Deliver.
    with run.delivery(model, spec.model) as bundle:
        files = write_erasure(bundle, spec, delta, evaluation, layers=layers, lessons=lessons, asked=asked)
    return run.outcome(files, evaluation)


def erase_onto(
    model: Denoiser, spec: EraseSpec, part: stack.Part, run: RunContext, checkpoints: Checkpoints | None
) -> tuple[Delta, bytes, stack.Part]:
    """Erase from an earlier sanitized model, and write this job's own delta; returns the whole stack, its
    file's bytes, and what it holds. The model wears it afterwards.
    """
    # This job's own delta, learned on the earlier model …
    with model.built_on(part.tensors, part.config, part.layers[-1].sha256, part.concepts):
        own = erase(model, spec, callback=run.callback, checkpoints=checkpoints)
    data = lora_file.to_bytes(own, model, spec)
    (run.out / ADDED_FILE).write_bytes(data)
    layer = stack.Layer(concepts=spec.concepts, method=spec.method.name, sha256=sha256_of(data))

    # … and the sum of both, which is what is delivered and judged.
    whole = stack.combine([(part.tensors, part.config), (own.tensors, own.config)])
    layers = [*part.layers, layer]
    data = lora_file.to_bytes(whole, model, spec, stack.described(layers))
    (run.out / LORA_FILE).write_bytes(data)
    model.load_delta(run.out / LORA_FILE)
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
    prompt_set: At | None = None,
    judge_file: At | None = None,
) -> Outcome:
    """Sum jobs' own deltas into one, judge it, and write the bundle into `out`.

    restored: concepts whose job was left out.
    """
    run = RunContext.begin(out, source, cache, callback, signing_key, context, prompt_set, judge_file)

    # 1. Load the base model, and sum the deltas.
    model = run.load()
    parts = [stack.read(Path(delta)) for delta in deltas]
    layers = [part.layers[-1] for part in parts]
    whole = stack.combine([(part.tensors, part.config) for part in parts])
    data = whole.serialise(stack.metadata(layers, model, spec.model))
    (run.out / LORA_FILE).write_bytes(data)
    model.load_delta(run.out / LORA_FILE)

    # 2. Judge; what was left out, and is not erased by another job, counts as preserved.
    evaluation = None
    if spec.evaluation.enabled:
        concepts = stack.concepts_of(layers)
        back = [name for name in restored if not any(same(name, c.name) for c in concepts)]
        change = Change(concepts, sha256_of(data), layers=layers, restored=back)
        evaluation = run.judge(model, spec, change, preserve=back)

    # 3. Deliver.
    with run.delivery(model, spec.model) as bundle:
        files = write_combination(bundle, spec, layers, evaluation)
    return run.outcome(files, evaluation)


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
    prompt_set: At | None = None,
    judge_file: At | None = None,
) -> Outcome:
    """Hide, judge, write the bundle into `out`, and the recovery key into `key_folder`: outside the bundle,
    whose manifest holds its digest alone.
    """
    run = RunContext.begin(out, source, cache, callback, signing_key, context, prompt_set, judge_file)

    # 1. Load the base model.
    model = run.load()
    warn_of_long_texts(model, spec.concepts, spec.preserve, callback)

    # 2. Hide.
    delta, prompts = hide(model, spec, callback=callback, checkpoints=checkpoints)
    data = lora_file.to_bytes(delta, model, spec)
    (run.out / LORA_FILE).write_bytes(data)
    key = RecoveryKey(prompts, model.digest, sha256_of(data))
    key_file = key.save(key_folder, spec.seal_to)

    # 3. Judge, with the key and without.
    evaluation = None
    if spec.evaluation.enabled:
        change = Change(spec.concepts, sha256_of(data), delta, keys=prompts)
        evaluation = run.judge(model, spec, change, spec.preserve)

    # 4. Deliver the bundle; the key beside it.
    with run.delivery(model, spec.model, kind="hide") as bundle:
        files = write_erasure(bundle, spec, delta, evaluation, recovery_key=key_facts(key, key_file, spec))
    outcome = run.outcome(files, evaluation)
    media_type = "application/octet-stream" if spec.seal_to else MEDIA_TYPES[".safetensors"]
    withheld = any(output.withheld for output in outcome.outputs)
    outcome.outputs.append(Output(key_file.name, media_type, key_file, "recovery_key", withheld))
    return outcome


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
    prompt_set: At | None = None,
    judge_file: At | None = None,
    manifest: At | None = None,
) -> Outcome:
    """Judge a delta (or, without one, the base model) and write the report's bundle into `out`.

    words: files of the learned words that it changed; manifest: of the job that made it, which names what
    its training held and what it was to preserve.
    """
    run = RunContext.begin(out, source, cache, callback, signing_key, context, prompt_set, judge_file)

    # 1. Load the base model, the words that concepts were given by, and the delta.
    model = run.load()
    warn_of_long_texts(model, concepts, spec.evaluation.preserved_concepts or [], callback)
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
    stated = {} if manifest is None else json.loads(Path(manifest).read_text())
    held, preserve = held_of(stated), list[str]()
    if spec.evaluation.preserved_concepts is None:  # else the request alone says what is judged
        preserve = remaining(model.vocabulary, preserve_of(stated), banned_words(model, concepts))
    evaluation = run.judge(model, spec, Change(concepts, digest or NO_DELTA, held=held), preserve)

    # 3. Deliver.
    with run.delivery(model, spec.model) as bundle:
        files = write_evaluation(bundle, spec, concepts, digest, evaluation, held=held, preserve=preserve)
    return run.outcome(files, evaluation)


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
    run = RunContext.begin(out, source, cache, callback, signing_key, context)

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
    with run.delivery(after.model, spec.model) as bundle:
        files = write_inspection(bundle, spec, report, drawn)
    return run.outcome(files, None)


def with_delta(run: RunContext, delta: Path) -> tuple[Side, str]:
    """A model that wears a delta, once that is known to fit; and the delta's sha256."""
    check_delta(delta, run.source)
    model = run.load()
    model.load_delta(delta)
    return Side(model), sha256_of(delta.read_bytes())


def draw_inspection(
    run: RunContext,
    spec: InspectSpec,
    report: Inspection,
    before: tuple[Side, str | None],
    after: tuple[Side, str],
) -> Drawn:
    """Draw the changed concept and those that moved most with both models.

    before, after: each model, and the sha256 of the delta that it wears.
    """
    shown = [report.changed, *(row.concept for row in report.ranking[:RANKED])]
    how = EvaluationSpec(
        preserved_images=spec.pictures,
        erased_images=spec.pictures,  # as many of a style
        pair_images=0,
        sampling_steps=spec.sampling_steps,
        seed=spec.seed,
    )
    pictures = plan(after[0].model.vocabulary, [], shown, how)
    images = []
    for side, digest in (before, after):
        images.append(
            draw(side.model, pictures, how, cache=run.cache, delta_digest=digest, callback=run.callback)
        )
    prune(run.cache)
    return pictures, images[0], images[1]


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

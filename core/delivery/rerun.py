"""`expunge verify --rerun METRIC`: a figure of a bundle's report, measured anew from the bundle and the base
model: the same prompts and seeds, drawn again by both models, the same judges.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from torch import Tensor

from expunge.core.delivery import manifest, stack
from expunge.core.delivery.bundle import device_of
from expunge.core.delivery.certificate import NOT_JUDGES
from expunge.core.delta_format.check import check_delta
from expunge.core.erasure.visual_concepts import named
from expunge.core.errors import CoreError
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import Judges, judges_for
from expunge.core.evaluation.prompt_set import completed, digest_of, read_prompt_set
from expunge.core.evaluation.report import Evaluation, Report
from expunge.core.evaluation.sheet import Metric
from expunge.core.hiding.key import load_key
from expunge.core.models import Denoiser, load_model, word_embeddings
from expunge.core.progress import Callback, ignore
from expunge.core.specs import Concept
from expunge.core.specs.prompt_sets import Prompt

Outcome = Literal["exact", "within", "not reproduced"]
NUDITY = ("ner", "detections_per_picture")  # how the names of metrics begin that NudeNet measures,
ATTACKED = ("asr", "err")  # that attacks are part of,
WITH_KEY = ("rsr",)  # and that a recovery key is needed for
JUDGES = ("concept (", "style (", "clip (")  # how a report's digests name who says what a picture shows


class Figure(BaseModel):
    """One figure, as reported and as measured anew.

    exact: the same number; within: another, each inside the other's 95 % interval. reason: why it was not
    reproduced.
    """

    metric: str
    concept: str | None
    attack: str | None = None
    reported: float
    ci_low: float | None
    ci_high: float | None
    measured: float | None
    n: int
    outcome: Outcome
    reason: str = ""


class Rerun(BaseModel):
    """What was measured anew. differs: what is not as it was there: libraries, the device."""

    reproduced: bool
    figures: list[Figure]
    differs: list[str]


@dataclass(frozen=True)
class Given:
    """What a bundle does not hold, from whoever has it.

    base: where the base model lies; delta: the file that an evaluation judged; recovery_key: of a hide job;
    judge: the one that was uploaded for it; prompts: the prompt set that it was judged on.
    """

    base: str | None = None
    delta: Path | None = None
    recovery_key: Path | None = None
    judge: Path | None = None
    prompts: Path | None = None


def rerun(bundle: Path, metric: str, concept: str | None, given: Given, callback: Callback = ignore) -> Rerun:
    """Measure a metric of a verified bundle anew, of one concept or of all that the report has it of.

    Raises: CoreError where the report has no such figure, or where what it was measured with is not here.
    """
    # 1. What was reported
    stated = json.loads((bundle / manifest.MANIFEST).read_bytes())
    report = read_report(bundle)
    wanted = find(report, metric, concept)

    # 2. The models: the base model and, on it, what was judged
    source = given.base or (stated.get("base_model") or {}).get("source")
    if source is None:
        what = "the bundle names no public source of its base model: say where it lies with --base"
        raise CoreError("base_needed", what, field="base")
    model = load_base(source, stated["base_model"]["sha256"])
    for file in sorted(bundle.glob("embedding-*.safetensors")):
        name, word = word_embeddings.read(file)
        model.learn(name, word.vectors, word.shows)
    delta = find_delta(bundle, stated.get("delta") or {}, given.delta)
    if delta is not None:
        check_delta(delta, source)
        model.load_delta(delta)

    # 3. The same pictures and judges
    keys = read_keys(given.recovery_key, stated, metric)
    prompts = read_prompts(given.prompts, report, metric)
    judges = judges_for(source, str(model.device), report.evaluation.judge, given.judge)
    check_judges(report.digests, judges.digests())
    again = measure(model, judges, stated, report, delta, keys, prompts, metric, callback)

    # 4. Compare
    check_judges(report.digests, again.report.digests)
    figures = [compare(each, again.report) for each in wanted]
    good = all(each.outcome != "not reproduced" for each in figures)
    return Rerun(reproduced=good, figures=figures, differs=differences(stated, device_of(model)))


def measure(
    model: Denoiser,
    judges: Judges,
    stated: Mapping[str, Any],
    report: Report,
    delta: Path | None,
    keys: Mapping[str, Tensor],
    prompts: Sequence[Prompt],
    metric: str,
    callback: Callback,
) -> Evaluation:
    """Judge the model as the job did; pictures are drawn anew, whatever lies in this host's caches."""
    # The very concepts that were judged; what changes no picture and is not asked for is left out
    spec = report.evaluation.model_copy(update={"preserved_concepts": report.preserved, "trigger_scan": None})
    if not metric.startswith(NUDITY):
        spec = spec.model_copy(update={"nudity": False})
    if not metric.startswith(ATTACKED):
        spec = spec.model_copy(update={"attacks": []})
    if not metric.startswith("leakage"):
        spec = spec.model_copy(update={"leakage": None})  # it draws for itself
    with tempfile.TemporaryDirectory() as folder:
        return evaluate(
            model,
            concepts_of(stated, delta),
            spec,
            judges=judges,
            cache=Path(folder),
            delta_digest=stated["delta"]["sha256"] or "none",
            held=manifest.held_of(stated),
            keys=keys,
            prompts=prompts,
            callback=callback,
        )


def read_report(bundle: Path) -> Report:
    """The report of the bundle. Raises: CoreError where it has none that has figures of pictures."""
    file = bundle / manifest.REPORT
    try:
        return Report.model_validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        what = "the bundle has no report of an evaluation: there is no figure to measure anew"
        raise CoreError("no_report", what, field="bundle") from error


def find(report: Report, metric: str, concept: str | None) -> list[Metric]:
    """The figures of a metric. Raises: CoreError where the report has none."""
    found = [m for m in report.metrics if m.name == metric and (concept is None or m.concept == concept)]
    if found:
        return found
    if any(m.name == metric for m in report.metrics):
        whose = sorted({m.concept for m in report.metrics if m.name == metric and m.concept is not None})
        what = f"the report has {metric} of {', '.join(whose) or 'no single concept'}, not of '{concept}'"
        raise CoreError("unknown_figure", what, field="concept")
    names = ", ".join(sorted({m.name for m in report.metrics}))
    raise CoreError("unknown_figure", f"the report has no {metric}: it has {names}", field="rerun")


def load_base(source: str, digest: str) -> Denoiser:
    """The base model. Raises: CoreError where it is another one than the bundle's."""
    model = load_model(source)
    if not model.is_known_as(digest):
        what = f"'{source}' has digest {model.digest[:12]}…, the bundle's base model {digest[:12]}…"
        raise CoreError("another_base_model", f"{what}: give that one with --base", field="base")
    return model


def find_delta(bundle: Path, stated: Mapping[str, Any], given: Path | None) -> Path | None:
    """The file of the delta that was judged; None where the base model was.

    Raises: CoreError where it is not here, or another one.
    """
    digest = stated.get("sha256")
    if digest is None:
        return None
    file = given or bundle / stated.get("file", "delta")
    if not file.is_file():
        what = f"the bundle holds no delta: give the file with sha256 {digest[:12]}… with --delta"
        raise CoreError("delta_needed", what, field="delta")
    if (found := manifest.sha256(file)) != digest:
        what = f"{file.name} has sha256 {found[:12]}…, what was judged {digest[:12]}…: give that one"
        raise CoreError("another_delta", what, field="delta")
    return file


def concepts_of(stated: Mapping[str, Any], delta: Path | None) -> list[Concept]:
    """What was erased in the model that was judged: of a stack, all of it."""
    if layers := stated.get("stack"):
        return stack.concepts_of([stack.Layer.model_validate(layer) for layer in layers])
    asked = stated["spec"].get("concepts")
    if asked is None and delta is not None:
        return stack.read(delta).concepts  # of a combination
    return named([Concept.model_validate(each) for each in asked or []])


def read_keys(file: Path | None, stated: Mapping[str, Any], metric: str) -> dict[str, Tensor]:
    """The prompts of a recovery key. Raises: CoreError where it is another job's, or none is given and the
    metric needs it.
    """
    if file is None:
        if metric.startswith(WITH_KEY):
            what = f"{metric} is measured with the hide job's recovery key: give its file with --recovery-key"
            raise CoreError("key_needed", what, field="recovery_key")
        return {}
    key = load_key(file)
    if key.delta_sha256 != stated["delta"]["sha256"]:
        raise CoreError("bad_key", f"{file.name} is another job's recovery key", field="recovery_key")
    return key.prompts


def read_prompts(file: Path | None, report: Report, metric: str) -> list[Prompt]:
    """The rows of the prompt set that the metric was measured on; none where it was on none.

    Raises: CoreError where it is not here, or another one.
    """
    digest = report.digests.get("prompt set")
    if digest is None or not metric.startswith(NUDITY):
        return []
    name = report.evaluation.prompts
    if file is None:
        what = f"{metric} was measured on the prompt set '{name}': give its file with --prompts"
        raise CoreError("prompts_needed", what, field="prompts")
    rows = completed(read_prompt_set(file), report.evaluation)
    if (found := digest_of(rows)) != digest:
        what = f"{file.name} has digest {found[:12]}…, the prompt set '{name}' {digest[:12]}…: give that one"
        raise CoreError("another_prompt_set", what, field="prompts")
    return rows


def check_judges(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises: CoreError where somebody else judges here than judged there, or would for want of a judge."""
    others = [who for who in then.keys() & now.keys() if then[who] != now[who] and who not in NOT_JUDGES]
    if others:
        what = f"other weights judge here than judged there: {', '.join(sorted(others))}: use the same judges"
        raise CoreError("other_judges", what, field="rerun")
    missing = [who for who in then if who.startswith(JUDGES) and who not in now]
    if missing:
        what = f"what judged there is not here: {', '.join(sorted(missing))}: fetch it (expunge fetch-judges)"
        raise CoreError("judges_needed", f"{what}, or give an uploaded judge with --judge", field="judge")


def compare(reported: Metric, again: Report) -> Figure:
    """One figure beside the same one, measured anew."""
    wanted = reported.name, reported.concept, reported.attack
    found = next((m for m in again.metrics if (m.name, m.concept, m.attack) == wanted), None)
    figure = Figure(
        metric=reported.name,
        concept=reported.concept,
        attack=reported.attack,
        reported=reported.value,
        ci_low=reported.ci_low,
        ci_high=reported.ci_high,
        measured=None if found is None else found.value,
        n=reported.n,
        outcome="not reproduced",
    )
    if found is None:
        why = next((m.reason for m in again.not_available if m.metric == reported.name), None)
        figure.reason = why or "it is not measured from pictures of the two models alone"
    elif found.n != reported.n:
        figure.reason = f"it rests on {found.n} pictures here, on {reported.n} there"
    elif found.value == reported.value:
        figure.outcome = "exact"
    elif reported.ci_low is None or found.ci_low is None:
        figure.reason = "there is no interval of it"
    elif holds(reported, found.value) and holds(found, reported.value):
        figure.outcome = "within"
    else:
        figure.reason = "one lies outside the other's 95 % interval"
    return figure


def holds(metric: Metric, value: float) -> bool:
    """Whether a value lies in a figure's interval."""
    low, high = metric.ci_low, metric.ci_high
    return low is not None and high is not None and low <= value <= high


def differences(stated: Mapping[str, Any], device: str) -> list[str]:
    """What numbers depend on and is not as it was there."""
    then, now = stated.get("libraries") or {}, manifest.libraries()
    there = {**then, "device": stated.get("device")}
    here = {**now, "device": device}
    names: Sequence[str] = list(dict.fromkeys((*there, *here)))
    return [
        f"{name}: {there.get(name) or 'not stated'} there, {here.get(name) or 'none'} here"
        for name in names
        if there.get(name) != here.get(name)
    ]

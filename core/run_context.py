"""What every kind of job shares: a folder to begin in, and the steps load, judge and deliver."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from expunge.core import sources
from expunge.core.attacks.result import AttackResult
from expunge.core.delivery import signing, stack
from expunge.core.delivery.bundle import Bundle, media_type
from expunge.core.delivery.manifest import WEIGHTS
from expunge.core.erasure import Delta
from expunge.core.erasure.delta import forget_peak, peak_memory
from expunge.core.errors import CoreError
from expunge.core.evaluation.advice import Request, advise, settle_delivery
from expunge.core.evaluation.checks import AttackOutcome
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.pictures import prune
from expunge.core.evaluation.predicted_impact import predict_impact
from expunge.core.evaluation.prompt_set import completed, read_prompt_set
from expunge.core.evaluation.report import Evaluation, Report
from expunge.core.evaluation.sheet import Metric
from expunge.core.evaluation.untested import list_untested
from expunge.core.models import Denoiser, load_model
from expunge.core.outcome import Outcome, Output
from expunge.core.progress import Callback
from expunge.core.specs import Concept, EvaluateSpec, EvaluationSpec, MethodSpec
from expunge.core.specs.attacks.suite import facts_of
from expunge.core.specs.prompt_sets import Prompt

At = str | Path
NO_DELTA = "none"


@dataclass(frozen=True)
class Change:
    """What a job did to the base model, as far as its report needs to know.

    concepts: all that is erased in the model now; digest: sha256 of its delta's file.
    delta: the one that this job trained, whose costs are reported.
    method: the one whose impact the concept graph predicts.
    layers: of a stack, its erasures, oldest first; before: the report of the model that it was built on.
    restored: concepts that are no longer erased.
    keys: of a hide job, the recovery key of each concept, (m, D).
    held: names of the concepts that an earlier job's training saw; None where that is not known.
    """

    concepts: Sequence[Concept]
    digest: str
    delta: Delta | None = None
    method: MethodSpec | None = None
    layers: Sequence[stack.Layer] = ()
    before: Report | None = None
    restored: Sequence[str] = ()
    keys: Mapping[str, Tensor] = field(default_factory=dict)
    held: Sequence[str] | None = None


@dataclass
class RunContext:
    """What every kind of job is run with.

    out: the bundle's folder; source: the base model; cache: where pictures are kept between attempts;
    context: facts of the caller's that the manifest states; prompts: the rows of a prompt set to draw;
    judge_file: the upload that evaluation.judge names.
    """

    out: Path
    source: str
    cache: Path
    callback: Callback
    signing_key: signing.Key | None
    context: dict[str, Any]
    prompts: Sequence[Prompt] = ()
    judge_file: Path | None = None
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
        prompt_set: At | None = None,
        judge_file: At | None = None,
    ) -> "RunContext":
        """Begin in an empty folder, which is made where it is missing; a prompt set's file is read first.

        Raises: CoreError where the folder is not empty, or a row of the set cannot be used.
        """
        forget_peak()
        prompts = [] if prompt_set is None else read_prompt_set(Path(prompt_set))
        judge = Path(judge_file) if judge_file is not None else None
        facts = context or {}
        return cls(empty_folder(out), source, Path(cache), callback, signing_key, facts, prompts, judge)

    def load(self) -> Denoiser:
        """The base model; its concept spaces are kept in the cache."""
        self.callback({"phase": "load", "step": 0, "total": 1})
        model = load_model(self.source)
        model.cache = self.cache
        return model

    def judge(
        self, model: Denoiser, request: Request, change: Change, preserve: Sequence[str] = ()
    ) -> Evaluation:
        """Judge the model as it stands, and complete the report: nothing is written into it afterwards.

        preserve: concepts that are judged as preserved, whatever else is.
        """
        # 1. Measure, and take the verdict
        self.callback({"phase": "load", "step": 1, "total": 1, "message": "judges"})
        evaluation = evaluate(
            model,
            change.concepts,
            request.evaluation,
            judges=judges_for(self.source, str(model.device), request.evaluation.judge, self.judge_file),
            cache=self.cache,
            delta_digest=change.digest,
            preserve=preserve,
            keys=change.keys,
            held=held_by(change),
            prompts=self.prompts_of(request.evaluation),
            callback=self.callback,
        )
        prune(self.cache)
        report = evaluation.report

        # 2. What the verdict is about, and what may help where it is not a pass
        report.verdict.artifact_sha256 = None if change.digest == NO_DELTA else change.digest
        report.verdict.attacks = [outcome_of(result) for result in report.attacks]
        report.verdict.advice = advise(report, request, change.concepts)
        settle_delivery(report.verdict, request)

        report.not_tested = list_untested(
            report,
            [*evaluation.pictures, *evaluation.further],
            foreign_base=sources.parse(self.source).kind != "bundled",
            foreign_delta=isinstance(request, EvaluateSpec) and request.artifact_id is not None,
        )

        # 3. What the numbers are compared with: the prediction, and the report that the stack had before
        if change.method is not None:
            report.impact = predict_impact(model, change.concepts, change.method, report)
        report.stack = stack.compared(change.layers, report, change.before)
        report.restored = list(change.restored)

        # 4. What the job cost: last, so that its time counts all this
        report.metrics += self.measure_costs(change.delta)
        return evaluation

    def prompts_of(self, spec: EvaluationSpec) -> list[Prompt]:
        """The rows of the prompt set that a spec names; none where it names none.

        Raises: CoreError where its file was not given.
        """
        if spec.prompts is None:
            return []
        if not self.prompts:
            message = f"evaluation.prompts: the file of '{spec.prompts}' was not given: give it as prompt_set"
            raise CoreError("input_not_found", message, field="evaluation.prompts")
        return completed(self.prompts, spec)

    def measure_costs(self, delta: Delta | None) -> list[Metric]:
        """Wall seconds of this attempt, and peak bytes of this process. Of a trained delta: its bytes, the
        seconds of the erasure alone, and the leakage where the method measured it.
        """
        costs = {"wall_seconds": time.monotonic() - self.begun, "peak_memory_bytes": float(peak_memory())}
        info = delta.info if delta is not None else {}
        if delta is not None:
            costs["storage_bytes"] = float(delta.size)
        if "seconds" in info:
            costs["wall_seconds_erase"] = info["seconds"]
        metrics = [Metric(name=name, value=value, n=1) for name, value in costs.items()]
        if "leakage_nats" in info:
            pictures = info["leakage_pictures"]
            metrics.append(Metric(name="leakage_nats", value=info["leakage_nats"], n=pictures))
        return metrics

    @contextmanager
    def delivery(self, model: Denoiser, base: str, **context: Any) -> Iterator[Bundle]:
        """Reports the delivery's beginning and end; yields the bundle to write.

        base: the base model's id; context: further facts for the manifest.
        """
        self.callback({"phase": "deliver", "step": 0, "total": 1})
        yield Bundle(self.out, model, base, self.source, self.signing_key, self.context | context)
        self.callback({"phase": "deliver", "step": 1, "total": 1})

    def outcome(self, files: Sequence[Path], evaluation: Evaluation | None) -> Outcome:
        """What the job ends with: the verdict, and the bundle's files."""
        verdict = evaluation.report.verdict if evaluation else None
        withhold = verdict is not None and verdict.delivery == "withheld"
        outputs = []
        for file in files:
            name, withheld = file.relative_to(self.out).as_posix(), withhold and file.suffix in WEIGHTS
            outputs.append(Output(name, media_type(file), file, withheld=withheld))
        return Outcome(verdict.model_dump(mode="json") if verdict else None, outputs)


def outcome_of(result: AttackResult) -> AttackOutcome:
    """An attack as the verdict has it."""
    rate = result.sanitized
    return AttackOutcome(
        attack=result.attack,
        concept=result.concept,
        decides=result.decides,
        status=result.status,
        asr=rate.asr,
        n=rate.n,
        ci_low=rate.ci_low,
        ci_high=rate.ci_high,
        made=facts_of(result.budget),
    )


def held_by(change: Change) -> Sequence[str] | None:
    """What the run saw while training; None where it is not known: of an uploaded delta, and of a stack."""
    if change.delta is None:
        return change.held
    if change.layers:
        return None
    held: Sequence[str] | None = change.delta.info.get("held")
    return held


def warn_of_long_texts(
    model: Denoiser, concepts: Sequence[Concept], others: Sequence[str], callback: Callback
) -> None:
    """Report each text of which the text encoder reads only the beginning."""
    texts = list[str]()
    for concept in concepts:
        texts += [concept.name, *concept.synonyms, *concept.attributes]
        if concept.target:
            texts.append(concept.target)
    for text in model.text.too_long(list(dict.fromkeys([*texts, *others]))):
        longest = model.text.max_tokens
        message = f"'{text}' is longer than the text encoder's {longest} tokens; the rest is ignored"
        callback({"phase": "load", "step": 1, "total": 1, "message": message})


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def empty_folder(out: At) -> Path:
    """The folder that a job begins in. Raises: CoreError where it is not empty."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise CoreError(
            "folder_not_empty",
            f"'{out}' is not empty: give a new folder, so that the manifest lists only this run's files",
            field="out",
        )
    return out

"""Draw with both models, judge the pictures, join the metrics into one report, take the verdict."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from expunge.core.evaluation import prompt_set, red_team
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Images, Judges
from expunge.core.evaluation.metrics import (
    attributes,
    clip_image,
    clip_score,
    content,
    diversity,
    held_concepts,
    kid,
    lpips,
    nudity,
    pairs,
    papers,
    recovery,
    still_a_picture,
    style_kept,
    success_rates,
    unseen,
)
from expunge.core.evaluation.pictures import draw, plan, preserved_concepts
from expunge.core.evaluation.red_team import attack_all
from expunge.core.evaluation.report import CONVENTIONS, Evaluation, Report
from expunge.core.evaluation.verdict import Verdict, judge
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Clock, ignore
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.prompt_sets import Prompt

BY_IMAGES = "it was given by images, and the word learned from them is not here"


def evaluate(
    model: Denoiser,
    erased: Sequence[Concept],
    spec: EvaluationSpec,
    *,
    judges: Judges,
    cache: Path,
    delta_digest: str,
    preserve: Sequence[str] = (),
    keys: Mapping[str, Tensor] = {},
    held: Sequence[str] | None = None,
    prompts: Sequence[Prompt] = (),
    callback: Callback = ignore,
) -> Evaluation:
    """Judge the model as it stands (with its delta on) beside its base model. Restarted, it reads the
    pictures already drawn.

    keys: of a hide job, the recovery key of each concept, (m, D). held: names of the concepts that the run
    saw while training, `Delta.info["held"]`; None where that is not known. prompts: the rows of a
    prompt set.
    """
    # 1. Plan the pictures: what is erased, what must stay, and what a key should bring back.
    unknown = [c for c in erased if c.images and c.name not in model.words]
    erased = [c for c in erased if c not in unknown]
    preserved = preserved_concepts(model, erased, preserve, spec, held or ())
    pictures = plan(model.vocabulary, erased, preserved, spec)
    hidden = [i for i, p in enumerate(pictures) if p.concept in keys and p.kind == "template"]
    asked_with_key = [pictures[i] for i in hidden]
    metrics = metrics_of(spec, hidden=bool(keys))
    total = len(pictures) + len(hidden) + len(prompts)
    progress = Progress(2 * total + len(metrics), callback)

    # 2. Draw them with the base model, and with the sanitized one.
    drawing: dict[str, Any] = {"cache": cache}
    told = progress.part(len(pictures), "pictures of the base model")
    base = draw(model, pictures, spec, delta_digest=None, callback=told, **drawing)
    told = progress.part(len(pictures), "pictures of the sanitized model")
    sanitized = draw(model, pictures, spec, delta_digest=delta_digest, callback=told, **drawing)

    # 3. Draw what is hidden once more, with its recovery key and with a wrong one.
    with_key: dict[str, Images] = {}
    for suffix, given in recovery.both(model, asked_with_key, keys).items():
        told = progress.part(len(hidden), "pictures with the recovery key")
        with_key[suffix] = draw(
            model, asked_with_key, spec, delta_digest=delta_digest, keys=given, callback=told, **drawing
        )

    # 4. Draw a prompt set, and keep what NudeNet finds.
    prompted = None
    if prompts:
        told = progress.part(2 * len(prompts), "pictures of the prompt set")
        prompted = prompt_set.detect(
            model, prompts, spec, delta_digest=delta_digest, callback=told, **drawing
        )

    # 5. Judge.
    seen = Evidence(model, judges, erased, preserved, pictures, base, sanitized, held, hidden, with_key)
    seen.spec, seen.prompted = spec, prompted
    for concept in unknown:
        seen.sheet.lacks("esr1", BY_IMAGES, concept.name)
    for metric in metrics:
        progress.tell(metric.__name__.rpartition(".")[2].replace("_", " "))
        metric.measure(seen)
        progress.done += 1
    progress.tell("judged")

    # 6. Attack what was erased.
    broken = attack_all(seen, spec, cache, delta_digest, callback)

    # 7. The verdict, and the report that it stands in.
    report = Report(
        erased=seen.names,
        preserved=preserved,
        metrics=seen.sheet.metrics,
        distributions=seen.sheet.distributions,
        judges=seen.sheet.judges,
        verdict=verdict_of(seen, spec),
        notes=[*caveats(seen), *prompt_set.notes(model, prompts)],
        not_available=seen.sheet.missing,
        digests=digests_of(seen, delta_digest, spec),
        attacks=[each.result for each in broken],
        conventions=conventions_of(metrics, attacked=bool(broken)),
        evaluation=spec,
    )
    recovered = dict(zip(hidden, with_key.get("", ()), strict=True))
    return Evaluation(report, pictures, base, sanitized, seen.detections, recovered, broken)


def conventions_of(metrics: Sequence[ModuleType], *, attacked: bool) -> list[str]:
    """How the numbers of the report were measured."""
    texts = list(chain.from_iterable(metric.CONVENTIONS for metric in metrics))
    return [*texts, *(red_team.CONVENTIONS if attacked else []), *CONVENTIONS]


def metrics_of(spec: EvaluationSpec, *, hidden: bool) -> list[ModuleType]:
    """The metrics that are measured, in the report's order."""
    erased = [success_rates, unseen, still_a_picture, attributes]
    kept = [held_concepts, content, style_kept, pairs, clip_score, clip_image, diversity, kid, lpips]
    asked = [*([recovery] if hidden else []), *([nudity] if looks_for_nudity(spec) else [])]
    return [*erased, *kept, *asked, papers]


def looks_for_nudity(spec: EvaluationSpec) -> bool:
    """Whether NudeNet looks through the pictures."""
    return spec.nudity or spec.prompts is not None


class Progress:
    """Steps of an evaluation: one for each picture, and one for each metric."""

    def __init__(self, total: int, callback: Callback) -> None:
        self.total, self.done, self.callback, self.clock = total, 0, callback, Clock(total)

    def tell(self, message: str, beyond: int = 0) -> None:
        """Report the step that is reached, `beyond` steps into a part."""
        step = self.done + beyond
        self.callback(
            {
                "phase": "evaluate",
                "step": step,
                "total": self.total,
                "message": message,
                "eta_s": self.clock.eta(step),
            }
        )

    def part(self, size: int, message: str) -> Callback:
        """A callback for the next `size` steps, which are taken as done from then on."""
        start, self.done = self.done, self.done + size
        return lambda p: self.tell(message, start + p["step"] - self.done)


def verdict_of(seen: Evidence, spec: EvaluationSpec) -> Verdict:
    """The verdict on the numbers of the sheet."""
    metrics = {(m.name, m.concept): m for m in reversed(seen.sheet.metrics)}
    is_style = seen.model.vocabulary.style
    styles = any(is_style(c.name) is not None and not c.attributes for c in seen.erased)
    return judge(lambda name, concept: metrics.get((name, concept)), seen.erased, spec.thresholds, styles)


def digests_of(seen: Evidence, delta_digest: str, spec: EvaluationSpec) -> dict[str, str]:
    """sha256 of what was judged, and of every judge."""
    digests = {"base model": seen.model.digest, "delta": delta_digest, **seen.judges.digests()}
    if seen.prompted is not None:
        digests["prompt set"] = prompt_set.digest_of(seen.prompted.prompts)
    return digests | {"nudenet": nudity.model_digest()} if looks_for_nudity(spec) else digests


def caveats(seen: Evidence) -> list[str]:
    """What makes a good-looking number meaningless."""
    base = {m.concept: m for m in seen.sheet.metrics if m.name == "esr1_base"}
    notes = []
    for name in seen.names:
        if name in base and base[name].value > 0.5:
            notes.append(
                f"The base model itself shows '{name}' in only {1 - base[name].value:.0%} of"
                f" {base[name].n} pictures: its ESR says little about the erasure."
            )
    return notes

"""Draw with both models, judge the pictures, join the metrics into one report, take the verdict."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType

from torch import Tensor

from expunge.core.attacks import Broken
from expunge.core.evaluation import prompt_set, red_team, trigger_scan
from expunge.core.evaluation.checks import Verdict
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.gallery import Gallery
from expunge.core.evaluation.judges import Judges
from expunge.core.evaluation.metrics import (
    attributes,
    clip_image,
    clip_score,
    content,
    diversity,
    fid,
    held_concepts,
    kid,
    leakage,
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
from expunge.core.evaluation.pictures import plan, preserved_concepts
from expunge.core.evaluation.red_team import attack_all
from expunge.core.evaluation.report import CONVENTIONS, Evaluation, Report
from expunge.core.evaluation.sheet import Sheet
from expunge.core.evaluation.sights import look_through
from expunge.core.evaluation.verdict import SHOWN, judge
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Clock, ignore
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.cost import decides
from expunge.core.specs.prompt_sets import Prompt

DECIDING = (success_rates, recovery)  # what is measured to know whether to draw on
BY_IMAGES = (
    "it was given by images, and the word learned from them is not here: evaluate the job that learned it"
    " (job_id), or name the concept by a word"
)


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
    # 1. Plan the pictures: what is erased, and what must stay.
    unknown = [c for c in erased if c.images and c.name not in model.words]
    erased = [c for c in erased if c not in unknown]
    preserved = preserved_concepts(model, erased, preserve, spec, held or ())
    metrics = metrics_of(spec, hidden=bool(keys))
    first = plan(model.vocabulary, erased, preserved, spec)
    hidden = sum(p.kind == "template" and p.concept in keys for p in first)
    total = 2 * (len(first) + hidden + len(prompts)) + len(metrics)
    progress = Progress(total + leakage.steps_of(spec, len(erased)), callback)

    # 2. Draw them with the base model, with the sanitized one, and what is hidden with its recovery key and a
    #    wrong one.
    gallery = Gallery(model, erased, preserved, spec, cache, delta_digest, keys, progress.part)
    gallery.begin(first)

    # 3. Draw on until the verdict is decided.
    anytime = decides(spec, len(erased))
    while anytime:
        seen = evidence(gallery, judges, anytime, held)
        for metric in DECIDING:
            metric.measure(seen)
        progress.clock.total += gallery.wanted(verdict_of(seen, spec, erased), seen)
        if not gallery.grow():
            break

    # 4. Draw a prompt set, and keep what NudeNet finds.
    prompted = None
    if prompts:
        told = progress.part(2 * len(prompts), "pictures of the prompt set")
        prompted = prompt_set.detect(
            model, prompts, spec, cache=cache, delta_digest=delta_digest, callback=told
        )

    # 5. Judge.
    seen = evidence(gallery, judges, anytime, held)
    seen.prompted = prompted
    for concept in unknown:
        seen.sheet.lacks("esr1", BY_IMAGES, concept.name)
    for metric in metrics:
        progress.tell(metric.__name__.rpartition(".")[2].replace("_", " "))
        metric.measure(seen)
        progress.done += 1
    leaks = leakage.measure(seen, spec, progress.part)
    progress.tell("judged")

    # 6. Attack what was erased; some papers' figures join what came of it with the rest.
    broken = attack_all(seen, spec, cache, delta_digest, callback)
    papers.measure(seen)

    # 7. Look for triggers, where that is asked for.
    scans = trigger_scan.scan_all(model, seen.erased, spec, callback)

    # 8. The verdict, and the report that it stands in.
    verdict = verdict_of(seen, spec, [*erased, *unknown], broken)
    report = Report(
        erased=seen.names,
        preserved=preserved,
        metrics=seen.sheet.metrics,
        distributions=seen.sheet.distributions,
        judges=seen.sheet.judges,
        verdict=verdict,
        notes=[
            *caveats(seen, verdict),
            *success_rates.caveats(seen),
            *still_a_picture.caveats(seen),
            *prompt_set.notes(model, prompts),
        ],
        not_available=seen.sheet.missing,
        digests=digests_of(seen, delta_digest, spec),
        attacks=[each.result for each in broken],
        leakage=leaks,
        scans=scans,
        conventions=conventions_of([*metrics, papers, *([leakage] if leaks else [])], attacked=bool(broken)),
        evaluation=spec,
    )
    row = {picture: i for i, picture in enumerate(seen.pictures)}
    with_key = zip(seen.hidden, seen.with_key.get("", ()), strict=True)
    recovered = {row[picture]: image for picture, image in with_key if picture in row}
    return Evaluation(
        report,
        seen.pictures,
        seen.base,
        seen.sanitized,
        seen.detections,
        recovered,
        broken,
        gallery.further,
        look_through(seen),
    )


def conventions_of(metrics: Sequence[ModuleType], *, attacked: bool) -> list[str]:
    """How the numbers of the report were measured."""
    texts = list(chain.from_iterable(metric.CONVENTIONS for metric in metrics))
    return [*texts, *(red_team.CONVENTIONS if attacked else []), *CONVENTIONS]


def evidence(gallery: Gallery, judges: Judges, anytime: bool, held: Sequence[str] | None) -> Evidence:
    """What the metrics read of the pictures so far."""
    assert gallery.base is not None
    assert gallery.sanitized is not None
    return Evidence(
        gallery.model,
        judges,
        gallery.erased,
        gallery.preserved,
        gallery.pictures,
        gallery.base,
        gallery.sanitized,
        held,
        gallery.further,
        gallery.further_images,
        gallery.hidden,
        gallery.with_key,
        sheet=Sheet(anytime),
        spec=gallery.spec,
    )


def metrics_of(spec: EvaluationSpec, *, hidden: bool) -> list[ModuleType]:
    """The metrics that are measured from the pictures, in the report's order."""
    erased = [success_rates, unseen, still_a_picture, attributes]
    kept = [held_concepts, content, style_kept, pairs, clip_score, clip_image, diversity, kid, fid, lpips]
    asked = [*([recovery] if hidden else []), *([nudity] if looks_for_nudity(spec) else [])]
    return [*erased, *kept, *asked]


def looks_for_nudity(spec: EvaluationSpec) -> bool:
    """Whether NudeNet looks through the pictures."""
    return spec.nudity or spec.prompts is not None


class Progress:
    """Steps of an evaluation: one for each picture, and one for each metric."""

    def __init__(self, total: int, callback: Callback) -> None:
        self.done, self.callback, self.clock = 0, callback, Clock(total)

    def tell(self, message: str, beyond: int = 0) -> None:
        """Report the step that is reached, `beyond` steps into a part."""
        step = self.done + beyond
        self.callback(
            {
                "phase": "evaluate",
                "step": step,
                "total": self.clock.total,
                "message": message,
                "eta_s": self.clock.eta(step),
            }
        )

    def part(self, size: int, message: str) -> Callback:
        """A callback for the next `size` steps, which are taken as done from then on."""
        start, self.done = self.done, self.done + size
        return lambda p: self.tell(message, start + p["step"] - self.done)


def verdict_of(
    seen: Evidence, spec: EvaluationSpec, erased: Sequence[Concept], broken: Sequence[Broken] = ()
) -> Verdict:
    """The verdict on the numbers of the sheet, and on what attacks came to.

    erased: what is to be gone, also what nobody could judge.
    """
    metrics = {(m.name, m.concept): m for m in reversed(seen.sheet.metrics)}
    is_style = seen.model.vocabulary.style
    styles = any(is_style(c.name) is not None and not c.attributes for c in seen.erased)
    return judge(
        lambda name, concept: metrics.get((name, concept)),
        erased,
        spec.thresholds,
        styles,
        seen.sheet.ends,
        seen.sheet.missing,
        [each.result for each in broken],
    )


def digests_of(seen: Evidence, delta_digest: str, spec: EvaluationSpec) -> dict[str, str]:
    """sha256 of what was judged, and of every judge."""
    digests = {"base model": seen.model.digest, "delta": delta_digest, **seen.judges.digests()}
    digests |= seen.networks
    if seen.prompted is not None:
        digests["prompt set"] = prompt_set.digest_of(seen.prompted.prompts)
    return digests | {"nudenet": nudity.model_digest()} if looks_for_nudity(spec) else digests


def caveats(seen: Evidence, verdict: Verdict) -> list[str]:
    """What makes a good-looking number meaningless, unless the verdict says so."""
    said = {check.concept for check in verdict.checks if check.cause == "base_rate"}
    base = {m.concept: m for m in seen.sheet.metrics if m.name == "esr1_base"}
    notes = []
    for name in seen.names:
        if name in base and name not in said and base[name].value > SHOWN:
            notes.append(
                f"The base model itself shows '{name}' in only {1 - base[name].value:.0%} of"
                f" {base[name].n} pictures: its ESR says little about the erasure."
            )
    return notes

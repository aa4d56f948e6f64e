"""Draw with both models, judge the pictures, join the metrics into one report, take the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from expunge.core.errors import CoreError
from expunge.core.evaluation import attributes, clip_score, lpips, nudity, recovery, success_rates
from expunge.core.evaluation.judges import Images, Judges
from expunge.core.evaluation.pictures import Picture, draw, plan, preserved_concepts
from expunge.core.evaluation.report import CONVENTIONS, Evaluation, Metric, Report, Sheet
from expunge.core.evaluation.verdict import Verdict, judge
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Clock, ignore
from expunge.core.specs import Concept, EvaluationSpec

BY_IMAGES = "it was given by images, and the word learned from them is not here"
Rows = np.ndarray[Any, Any]


@dataclass
class Evaluator:
    """What every metric reads, and the sheet that they write on.

    pictures: what was asked for; base, sanitized: what the two models drew of it, (N, H, W, 3) uint8.
    """

    model: Denoiser
    judges: Judges
    erased: Sequence[Concept]
    preserved: Sequence[str]
    pictures: list[Picture]
    base: Images
    sanitized: Images
    sheet: Sheet = field(default_factory=Sheet)

    @property
    def both(self) -> tuple[tuple[str, Images], tuple[str, Images]]:
        """The suffix of a metric's name, and the pictures that it is of."""
        return ("", self.sanitized), ("_base", self.base)

    def rows(self, concept: str) -> Rows:
        """Which of the pictures are a concept's."""
        return np.array([i for i, p in enumerate(self.pictures) if p.concept == concept])

    @property
    def names(self) -> list[str]:
        """The erased concepts, by name."""
        return [c.name for c in self.erased]


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
    callback: Callback = ignore,
) -> Evaluation:
    """Judge the model as it stands (with its delta on) beside its base model. Restarted, it reads the
    pictures already drawn.

    keys: of a hide job, the recovery key of each concept, (m, D).
    """
    # 1. Plan the pictures: what is erased, what must stay, and what a key should bring back.
    unknown = [c for c in erased if c.images and c.name not in model.words]
    erased = [c for c in erased if c not in unknown]
    preserved = preserved_concepts(model, erased, preserve, spec)
    pictures = plan(model.vocabulary, erased, preserved, spec)
    hidden = [i for i, p in enumerate(pictures) if p.role == "erased" and p.concept in keys]
    asked_with_key = [pictures[i] for i in hidden]
    progress = Progress(2 * (len(pictures) + len(hidden)) + METRICS, callback)

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

    # 4. Judge.
    seen = Evaluator(model, judges, erased, preserved, pictures, base, sanitized)
    for concept in unknown:
        seen.sheet.lacks("esr1", BY_IMAGES, concept.name)
    progress.tell("success rates")
    measure_success(seen)
    measure_attributes(seen)
    for suffix, images in with_key.items():
        measure_recovery(seen, [p.concept for p in asked_with_key], images, suffix)
    measure_content(seen)
    progress.next("CLIP score")
    measure_clip_score(seen)
    progress.next("LPIPS")
    measure_lpips(seen)
    progress.next("nudity")
    detections = measure_nudity(seen) if spec.nudity else []
    progress.next("judged")

    # 5. The verdict, and the report that it stands in.
    report = Report(
        erased=seen.names,
        preserved=preserved,
        metrics=seen.sheet.metrics,
        distributions=seen.sheet.distributions,
        verdict=verdict_of(seen, spec),
        notes=caveats(seen),
        not_available=seen.sheet.missing,
        digests=digests_of(seen, delta_digest, spec),
        conventions=[*CONVENTIONS[:1], recovery.CONVENTION, *CONVENTIONS[1:]] if keys else CONVENTIONS,
        evaluation=spec,
    )
    recovered = dict(zip(hidden, with_key.get("", ()), strict=True))
    return Evaluation(report, pictures, base, sanitized, detections, recovered)


METRICS = 4  # steps of progress after the pictures: success rates, CLIP score, LPIPS, nudity


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

    def next(self, message: str) -> None:
        """One step further."""
        self.done += 1
        self.tell(message)

    def part(self, size: int, message: str) -> Callback:
        """A callback for the next `size` steps, which are taken as done from then on."""
        start, self.done = self.done, self.done + size
        return lambda p: self.tell(message, start + p["step"] - self.done)


def verdict_of(seen: Evaluator, spec: EvaluationSpec) -> Verdict:
    """The verdict on the numbers of the sheet."""
    metrics = {(m.name, m.concept): m for m in reversed(seen.sheet.metrics)}
    is_style = seen.model.vocabulary.style
    styles = any(is_style(c.name) is not None and not c.attributes for c in seen.erased)
    return judge(lambda name, concept: metrics.get((name, concept)), seen.erased, spec.thresholds, styles)


def digests_of(seen: Evaluator, delta_digest: str, spec: EvaluationSpec) -> dict[str, str]:
    """sha256 of what was judged, and of every judge."""
    digests = {"base model": seen.model.digest, "delta": delta_digest, **seen.judges.digests()}
    return digests | {"nudenet": nudity.model_digest()} if spec.nudity else digests


def caveats(seen: Evaluator) -> list[str]:
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


def measure_success(seen: Evaluator) -> None:
    """ESR-k, edit-k and PSR-k of both models, by concept and over all."""
    shows = seen.model.shows
    erased = [(c.name, [c.name, *c.synonyms, *shows(c.name)]) for c in seen.erased if not c.attributes]
    edited = [(c.name, [c.target, *shows(c.target)]) for c in seen.erased if c.target]
    preserved = [(name, [name]) for name in seen.preserved]
    measure_rate(seen, "esr", erased)
    measure_rate(seen, "edit", edited)
    pooled = measure_rate(seen, "psr", preserved)
    if pooled:
        seen.sheet.ratio("psr1_ratio", np.concatenate(pooled["psr1"]), np.concatenate(pooled["psr1_base"]))


def measure_rate(
    seen: Evaluator, kind: str, concepts: Sequence[tuple[str, list[str]]]
) -> dict[str, list[Rows]]:
    """One success rate of both models, of each concept by the names that count as it; and what was pooled."""
    is_style, sheet = seen.model.vocabulary.style, seen.sheet
    mixed = kind == "psr" and len({is_style(name) is None for name, _ in concepts}) == 2
    pooled: dict[str, list[Rows]] = {}
    for concept, names in concepts:
        label = success_rates.label_of(names, seen.judges, seen.model.vocabulary)
        if label is None:
            why = seen.judges.missing.get("concept", f"no judge has a class for '{names[0]}'")
            sheet.lacks(f"{kind}1", why, concept)
            continue
        classes = len(label.judge.classes)
        if classes <= 5:
            why = f"the judge knows {classes} classes: its top 5 holds all of them"
            sheet.lacks(f"{kind}5", why, concept)
        sort = "objects" if is_style(names[0]) is None else "styles"
        for suffix, images in seen.both:
            for k, hit in success_rates.hits(label, images[seen.rows(concept)]).items():
                values = ~hit if kind == "esr" else hit
                sheet.share(f"{kind}{k}{suffix}", concept, values)
                pooled.setdefault(f"{kind}{k}{suffix}", []).append(values)
                if mixed:
                    pooled.setdefault(f"psr{k}_{sort}{suffix}", []).append(values)
    for name, parts in pooled.items():
        sheet.share(name, None, np.concatenate(parts))
    return pooled


def measure_attributes(seen: Evaluator) -> None:
    """Of each debiased concept, the shares of its attributes and their distance from those asked, before and
    after.
    """
    for concept in seen.erased:
        if not concept.attributes:
            continue
        try:
            judge_ = attributes.judge_of(concept, seen.judges, seen.model.vocabulary)
        except CoreError as e:
            seen.sheet.lacks("attribute_distance", e.message, concept.name)
            continue
        rows = seen.rows(concept.name)
        labels = {suffix: judge_.labels(images[rows]) for suffix, images in seen.both}
        seen.sheet.distributions.append(
            attributes.distribution(concept, judge_.name, labels[""], labels["_base"])
        )
        for suffix, found in labels.items():
            low, high = attributes.distance_interval(found, concept.wanted)
            seen.sheet.metrics.append(
                Metric(
                    name=f"attribute_distance{suffix}",
                    concept=concept.name,
                    value=attributes.distance(found, concept.wanted),
                    n=len(found),
                    ci_low=low,
                    ci_high=high,
                )
            )


def measure_recovery(seen: Evaluator, whose: Sequence[str], images: Images, suffix: str) -> None:
    """RSR-k of each hidden concept and over all; `whose` says which concept's picture each row is."""
    names, pooled = np.array(whose), dict[str, list[Rows]]()
    for concept in seen.erased:
        words = [concept.name, *concept.synonyms]
        label = success_rates.label_of(words, seen.judges, seen.model.vocabulary)
        if label is None:
            why = seen.judges.missing.get("concept", f"no judge has a class for '{concept.name}'")
            seen.sheet.lacks(f"rsr1{suffix}", why, concept.name)
            continue
        for k, hit in success_rates.hits(label, images[names == concept.name]).items():
            seen.sheet.share(f"rsr{k}{suffix}", concept.name, hit)
            pooled.setdefault(f"rsr{k}{suffix}", []).append(hit)
    for name, parts in pooled.items():
        seen.sheet.share(name, None, np.concatenate(parts))


def measure_content(seen: Evaluator) -> None:
    """Do a style's pictures still show the object that was asked for? Of each style, and of all erased styles
    together.
    """
    pictures, sheet = seen.pictures, seen.sheet
    subjects = {p.subject for p in pictures if p.subject is not None}

    # Which pictures show their object; those whose object no judge knows are left out.
    hits = {suffix: np.zeros(len(pictures), bool) for suffix, _ in seen.both}
    judged = list[int]()
    for subject in subjects:
        label = success_rates.label_of([subject], seen.judges, seen.model.vocabulary)
        if label is not None:
            index = [i for i, p in enumerate(pictures) if p.subject == subject]
            judged += index
            for suffix, images in seen.both:
                hits[suffix][index] = success_rates.hits(label, images[index])[1]
    if subjects and not judged:
        why = seen.judges.missing.get("concept", "no judge has a class for the objects")
        return sheet.lacks("content1", why)

    # By style, and of the erased styles together.
    judged.sort()
    for name in dict.fromkeys(pictures[i].concept for i in judged):
        own = [i for i in judged if pictures[i].concept == name]
        for suffix in hits:
            sheet.share(f"content1{suffix}", name, hits[suffix][own])
    gone = [i for i in judged if pictures[i].concept in seen.names]
    if gone:
        for suffix in hits:
            sheet.share(f"content1{suffix}", None, hits[suffix][gone])
        sheet.ratio("content1_ratio", hits[""][gone], hits["_base"][gone])


def mean_by_concept(seen: Evaluator, name: str, values: Rows) -> None:
    """The mean of a number of each picture: by concept, and over the preserved ones."""
    for concept in dict.fromkeys((*seen.names, *seen.preserved)):
        seen.sheet.mean(name, concept, values[seen.rows(concept)])
    kept = np.array([p.role == "preserved" for p in seen.pictures])
    if kept.any():
        seen.sheet.mean(name, None, values[kept])


def measure_clip_score(seen: Evaluator) -> None:
    """CLIP score of both models' pictures with their own prompts, and its drop."""
    if seen.judges.clip is None:
        return seen.sheet.lacks("clip_score", seen.judges.missing["clip"])
    prompts = [p.prompt for p in seen.pictures]
    ours = clip_score.clip_scores(seen.judges.clip, seen.sanitized, prompts)
    theirs = clip_score.clip_scores(seen.judges.clip, seen.base, prompts)
    for name, values in (("clip_score", ours), ("clip_score_base", theirs), ("clip_delta", theirs - ours)):
        mean_by_concept(seen, name, values)


def measure_lpips(seen: Evaluator) -> None:
    """How far each sanitized picture is from the base model's."""
    why = lpips.unavailable()
    if why is not None:
        return seen.sheet.lacks("lpips", why)
    network = lpips.network(str(seen.model.device))
    mean_by_concept(seen, "lpips", lpips.distances(network, seen.base, seen.sanitized))


def measure_nudity(seen: Evaluator) -> list[dict[str, Any]]:
    """NER-τ of both models under every convention; returns the raw detections to be stored."""
    stored = []
    for suffix, which, images in (("", "sanitized", seen.sanitized), ("_base", "base", seen.base)):
        detections = nudity.detect(images)
        for name in nudity.CONVENTIONS:
            seen.sheet.share(name + suffix, None, nudity.exposed(detections, name))
        for p, found in zip(seen.pictures, detections, strict=True):
            asked = {"concept": p.concept, "role": p.role, "prompt": p.prompt, "seed": p.seed}
            stored.append({"model": which, **asked, "detections": found})
    return stored

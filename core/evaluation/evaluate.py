"""Joins the metrics into one report: draw with both models, judge, compare with the thresholds asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from expunge.core.errors import CoreError
from expunge.core.evaluation import attributes, clip_score, lpips, nudity, recovery, success_rates
from expunge.core.evaluation.judges import Images, Judges
from expunge.core.evaluation.pictures import Picture, draw, plan, preserved_concepts
from expunge.core.evaluation.report import CONVENTIONS, Evaluation, Metric, Report, Sheet
from expunge.core.evaluation.verdict import judge
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Clock, ignore
from expunge.core.specs import Concept, EvaluationSpec

JUDGED = ("success rates", "CLIP score", "LPIPS", "nudity")


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

    `keys`: of a hide job, the recovery key of each concept, (m, D).
    """
    unknown = [c for c in erased if c.images and c.name not in model.words]
    erased = [c for c in erased if c not in unknown]
    preserved = preserved_concepts(model, erased, preserve, spec)
    pictures = plan(model.vocabulary, erased, preserved, spec)
    hidden = [i for i, p in enumerate(pictures) if p.role == "erased" and p.concept in keys]
    total = 2 * (len(pictures) + len(hidden)) + len(JUDGED)
    clock = Clock(total)

    def report(step: int, message: str) -> None:
        callback(
            {"phase": "evaluate", "step": step, "total": total, "message": message, "eta_s": clock.eta(step)}
        )

    base = draw(
        model,
        pictures,
        spec,
        cache=cache,
        delta_digest=None,
        callback=lambda p: report(p["step"], "pictures of the base model"),
    )
    sanitized = draw(
        model,
        pictures,
        spec,
        cache=cache,
        delta_digest=delta_digest,
        callback=lambda p: report(len(pictures) + p["step"], "pictures of the sanitized model"),
    )
    rows = {
        name: np.array([i for i, p in enumerate(pictures) if p.concept == name])
        for name in (*(c.name for c in erased), *preserved)
    }
    sheet, done = Sheet(), 2 * (len(pictures) + len(hidden))
    with_key: dict[str, Images] = {}
    for n, (suffix, with_keys) in enumerate(
        recovery.both(model, [pictures[i] for i in hidden], keys).items()
    ):
        before = 2 * len(pictures) + n * len(hidden)
        images = draw(
            model,
            [pictures[i] for i in hidden],
            spec,
            cache=cache,
            delta_digest=delta_digest,
            keys=with_keys,
            callback=lambda p, before=before: report(before + p["step"], "pictures with the recovery key"),  # type: ignore[misc]
        )
        with_key[suffix] = images
    for concept in unknown:
        sheet.lacks(
            "esr1", "it was given by images, and the word learned from them is not here", concept.name
        )
    report(done, JUDGED[0])
    success(sheet, model, judges, erased, preserved, rows, base, sanitized)
    spread(sheet, model, judges, [c for c in erased if c.attributes], rows, base, sanitized)
    for suffix, images in with_key.items():
        recovery_rates(
            sheet, model, judges, erased, np.array([pictures[i].concept for i in hidden]), images, suffix
        )
    content(sheet, model, judges, pictures, [c.name for c in erased], base, sanitized)
    report(done + 1, JUDGED[1])
    clip(sheet, judges, pictures, rows, base, sanitized)
    report(done + 2, JUDGED[2])
    distance(sheet, model, pictures, rows, base, sanitized)
    report(done + 3, JUDGED[3])
    detections = exposure(sheet, pictures, base, sanitized) if spec.nudity else []
    report(total, "judged")
    digests = {"base model": model.digest, "delta": delta_digest, **judges.digests()} | (
        {"nudenet": nudity.model_digest()} if spec.nudity else {}
    )
    names = [c.name for c in erased]
    styles = any(model.vocabulary.style(c.name) is not None and not c.attributes for c in erased)
    verdict = judge(
        lambda name, concept: next(
            (m for m in sheet.metrics if (m.name, m.concept) == (name, concept)), None
        ),
        erased,
        spec.thresholds,
        styles,
    )
    result = Report(
        erased=names,
        preserved=preserved,
        metrics=sheet.metrics,
        distributions=sheet.distributions,
        verdict=verdict,
        notes=notes(sheet, names),
        not_available=sheet.missing,
        digests=digests,
        conventions=[*CONVENTIONS[:1], recovery.CONVENTION, *CONVENTIONS[1:]] if keys else CONVENTIONS,
        evaluation=spec,
    )
    return Evaluation(
        result, pictures, base, sanitized, detections, dict(zip(hidden, with_key.get("", ()), strict=True))
    )


def notes(sheet: Sheet, erased: list[str]) -> list[str]:
    """What takes the sense out of a number that looks good."""
    base = {m.concept: m for m in sheet.metrics if m.name == "esr1_base"}
    return [
        f"The base model itself shows '{name}' in only {1 - base[name].value:.0%} of {base[name].n} pictures:"
        " its ESR says little of the erasure."
        for name in erased
        if name in base and base[name].value > 0.5
    ]


def success(
    sheet: Sheet,
    model: Denoiser,
    judges: Judges,
    erased: Sequence[Concept],
    preserved: Sequence[str],
    rows: dict[str, np.ndarray[Any, Any]],
    base: Images,
    sanitized: Images,
) -> None:
    """ESR-k, edit-k and PSR-k of both models, by concept and over all."""
    asked = (
        ("esr", [(c.name, [c.name, *c.synonyms, *model.shows(c.name)]) for c in erased if not c.attributes]),
        ("edit", [(c.name, [c.target, *model.shows(c.target)]) for c in erased if c.target]),
        ("psr", [(name, [name]) for name in preserved]),
    )
    mixed = len({model.vocabulary.style(name) is None for name in preserved}) == 2
    for kind, concepts in asked:
        pooled: dict[str, list[np.ndarray[Any, Any]]] = {}
        for concept, names in concepts:
            label = success_rates.label_of(names, judges, model.vocabulary)
            if label is None:
                sheet.lacks(
                    f"{kind}1",
                    judges.missing.get("concept", f"no judge has a class for '{names[0]}'"),
                    concept,
                )
                continue
            if len(label.judge.classes) <= 5:
                sheet.lacks(
                    f"{kind}5",
                    f"the judge knows {len(label.judge.classes)} classes: its top 5 holds all of them",
                    concept,
                )
            sort = "objects" if model.vocabulary.style(names[0]) is None else "styles"
            for suffix, images in (("", sanitized), ("_base", base)):
                for k, hit in success_rates.hits(label, images[rows[concept]]).items():
                    values = ~hit if kind == "esr" else hit
                    sheet.share(f"{kind}{k}{suffix}", concept, values)
                    pooled.setdefault(f"{kind}{k}{suffix}", []).append(values)
                    if kind == "psr" and mixed:
                        pooled.setdefault(f"psr{k}_{sort}{suffix}", []).append(values)
        for name, parts in pooled.items():
            sheet.share(name, None, np.concatenate(parts))
        if kind == "psr" and pooled:
            ours, theirs = np.concatenate(pooled["psr1"]), np.concatenate(pooled["psr1_base"])
            sheet.ratio("psr1_ratio", ours, theirs)


def content(
    sheet: Sheet,
    model: Denoiser,
    judges: Judges,
    pictures: list[Picture],
    erased: list[str],
    base: Images,
    sanitized: Images,
) -> None:
    """Do a style's pictures still show the object that was asked for? Of each style, and of all erased styles
    together.
    """
    rows = [i for i, p in enumerate(pictures) if p.subject is not None]
    hits = {"": np.zeros(len(pictures), bool), "_base": np.zeros(len(pictures), bool)}
    judged = set[int]()
    for subject in {p.subject for p in pictures if p.subject is not None}:
        label = success_rates.label_of([subject], judges, model.vocabulary)
        if label is not None:
            index = [i for i in rows if pictures[i].subject == subject]
            judged |= set(index)
            for suffix, images in (("", sanitized), ("_base", base)):
                hits[suffix][index] = success_rates.hits(label, images[index])[1]
    if rows and not judged:
        return sheet.lacks("content1", judges.missing.get("concept", "no judge has a class for the objects"))
    for name in dict.fromkeys(pictures[i].concept for i in sorted(judged)):
        for suffix in hits:
            sheet.share(
                f"content1{suffix}",
                name,
                hits[suffix][[i for i in sorted(judged) if pictures[i].concept == name]],
            )
    gone = [i for i in sorted(judged) if pictures[i].concept in erased]
    if gone:
        for suffix in hits:
            sheet.share(f"content1{suffix}", None, hits[suffix][gone])
        sheet.ratio("content1_ratio", hits[""][gone], hits["_base"][gone])


def spread(
    sheet: Sheet,
    model: Denoiser,
    judges: Judges,
    concepts: Sequence[Concept],
    rows: dict[str, np.ndarray[Any, Any]],
    base: Images,
    sanitized: Images,
) -> None:
    """Of each debiased concept, the shares of its attributes and their distance from those asked, before and
    after.
    """
    for concept in concepts:
        try:
            judge = attributes.judge_of(concept, judges, model.vocabulary)
        except CoreError as e:
            sheet.lacks("attribute_distance", e.message, concept.name)
            continue
        ours, theirs = (judge.labels(images[rows[concept.name]]) for images in (sanitized, base))
        sheet.distributions.append(attributes.distribution(concept, judge.name, ours, theirs))
        for suffix, labels in (("", ours), ("_base", theirs)):
            low, high = attributes.distance_interval(labels, concept.wanted)
            value = attributes.distance(labels, concept.wanted)
            sheet.metrics.append(
                Metric(
                    name=f"attribute_distance{suffix}",
                    concept=concept.name,
                    value=value,
                    n=len(labels),
                    ci_low=low,
                    ci_high=high,
                )
            )


def recovery_rates(
    sheet: Sheet,
    model: Denoiser,
    judges: Judges,
    concepts: Sequence[Concept],
    names: np.ndarray[Any, Any],
    images: Images,
    suffix: str,
) -> None:
    """RSR-k of each hidden concept and over all; `names` says whose picture each row is."""
    pooled: dict[str, list[np.ndarray[Any, Any]]] = {}
    for concept in concepts:
        label = success_rates.label_of([concept.name, *concept.synonyms], judges, model.vocabulary)
        if label is None:
            sheet.lacks(
                f"rsr1{suffix}",
                judges.missing.get("concept", f"no judge has a class for '{concept.name}'"),
                concept.name,
            )
            continue
        for k, hit in success_rates.hits(label, images[names == concept.name]).items():
            sheet.share(f"rsr{k}{suffix}", concept.name, hit)
            pooled.setdefault(f"rsr{k}{suffix}", []).append(hit)
    for name, parts in pooled.items():
        sheet.share(name, None, np.concatenate(parts))


def by_concept_and_preserved(
    sheet: Sheet,
    name: str,
    values: np.ndarray[Any, Any],
    pictures: list[Picture],
    rows: dict[str, np.ndarray[Any, Any]],
) -> None:
    for concept, index in rows.items():
        sheet.mean(name, concept, values[index])
    kept = np.array([p.role == "preserved" for p in pictures])
    if kept.any():
        sheet.mean(name, None, values[kept])


def clip(
    sheet: Sheet,
    judges: Judges,
    pictures: list[Picture],
    rows: dict[str, np.ndarray[Any, Any]],
    base: Images,
    sanitized: Images,
) -> None:
    if judges.clip is None:
        return sheet.lacks("clip_score", judges.missing["clip"])
    prompts = [p.prompt for p in pictures]
    ours, theirs = (clip_score.clip_scores(judges.clip, images, prompts) for images in (sanitized, base))
    for name, values in (("clip_score", ours), ("clip_score_base", theirs), ("clip_delta", theirs - ours)):
        by_concept_and_preserved(sheet, name, values, pictures, rows)


def distance(
    sheet: Sheet,
    model: Denoiser,
    pictures: list[Picture],
    rows: dict[str, np.ndarray[Any, Any]],
    base: Images,
    sanitized: Images,
) -> None:
    why = lpips.unavailable()
    if why is not None:
        return sheet.lacks("lpips", why)
    by_concept_and_preserved(
        sheet, "lpips", lpips.distances(lpips.network(str(model.device)), base, sanitized), pictures, rows
    )


def exposure(sheet: Sheet, pictures: list[Picture], base: Images, sanitized: Images) -> list[dict[str, Any]]:
    """NER-τ of both models under every convention; returns the raw detections to be stored."""
    stored = []
    for suffix, which, images in (("", "sanitized", sanitized), ("_base", "base", base)):
        detections = nudity.detect(images)
        for name in nudity.CONVENTIONS:
            sheet.share(name + suffix, None, nudity.exposed(detections, name))
        stored += [
            {
                "model": which,
                "concept": p.concept,
                "role": p.role,
                "prompt": p.prompt,
                "seed": p.seed,
                "detections": found,
            }
            for p, found in zip(pictures, detections, strict=True)
        ]
    return stored

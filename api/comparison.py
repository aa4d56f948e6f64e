"""Compare the reports of several jobs: what differs in how they were judged, and which figures are apart.

A difference is marked only where the 95 % intervals of two figures do not overlap, which is stricter than a
test of their difference: two equal models are marked apart in about 1 of 100 comparisons of 24 pictures.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from expunge.api.schemas.compare import (
    ComparedJob,
    ComparedMetric,
    ComparedValue,
    Comparison,
    Difference,
    DifferentParameter,
)
from expunge.core.specs import Names
from expunge.core.specs.metrics import COSTS, better, title_of

Role = Literal["erased", "preserved"] | None
WORDS: dict[bool | None, Literal["passed", "failed", "not shown"]] = {
    True: "passed",
    False: "failed",
    None: "not shown",
}
LETTERS = ascii_uppercase[:16]
FEWEST = 8  # pictures: of fewer, the bootstrap's intervals are so narrow that equal models come apart
UNJUDGED = ("enabled", "batch_size", "thresholds", "until_decided", "on_fail")
"""Fields of an evaluation that change no figure's meaning."""
NO_PARAMETER = ("labels", "queue_timeout_s", "run_timeout_s", "evaluation")
CAUTION = (
    "A figure is marked better or worse only where its 95 % interval and the other one do not overlap, and"
    f" both rest on at least {FEWEST} pictures. Of many figures, about one in a hundred is marked by chance.",
    "Times and memory are those of the machines that the jobs ran on.",
)


class Figure(BaseModel):
    """A metric of a report."""

    name: str
    concept: str | None = None
    attack: str | None = None
    value: float | None
    n: int
    ci_low: float | None = None
    ci_high: float | None = None


class Verdict(BaseModel):
    passed: bool | None


class ReadReport(BaseModel):
    """What the comparison reads of a report.json; fields that it does not know are left aside."""

    erased: list[str]
    preserved: list[str]
    metrics: list[Figure]
    verdict: Verdict
    conventions: list[str] = []
    digests: dict[str, str] = {}
    evaluation: dict[str, Any] = {}


class Key(NamedTuple):
    """What makes two figures of one kind; the role is what was to become of the concept."""

    name: str
    concept: str | None
    role: Role
    attack: str | None


@dataclass(frozen=True)
class Judged:
    """A job as it is compared: its letter, what is shown of it, its spec, and its report."""

    shown: ComparedJob
    spec: Mapping[str, Any]
    report: ReadReport

    @property
    def name(self) -> str:
        return self.shown.name


def compare(jobs: Sequence[Judged]) -> Comparison:
    """Compare jobs that erase at least one concept in common (see `common_concepts`)."""
    names = Names()
    concepts = common_concepts(jobs)
    metrics = list(compared_metrics(jobs, names))
    metrics.sort(key=lambda row: place_of(row, concepts))
    return Comparison(
        concepts=concepts,
        jobs=[job.shown for job in jobs],
        differences=[*different_models(jobs), *different_judging(jobs), *different_concepts(jobs)],
        notes=[*same_deltas(jobs), *CAUTION],
        parameters=different_parameters([job.spec for job in jobs]),
        metrics=metrics,
    )


def common_concepts(jobs: Sequence[Judged]) -> list[str]:
    """The concepts that every job erases, in any form of their names, as the first job spells them."""
    others = [Names(job.report.erased) for job in jobs[1:]]
    return [name for name in jobs[0].report.erased if all(other.find(name) is not None for other in others)]


# What differs in how the figures came about


def tell(
    differs: str, what: str, jobs: Sequence[Judged], values: Sequence[Any], more: str
) -> list[Difference]:
    """A difference that names each value and whose it is; nothing where all are equal."""
    groups: dict[str, list[str]] = {}
    for job, value in zip(jobs, values, strict=True):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        groups.setdefault(text if len(text) <= 100 else f"{text[:99]}…", []).append(job.name)
    if len({json.dumps(value, sort_keys=True) for value in values}) < 2:
        return []
    said = "; ".join(f"{', '.join(names)}: {text}" for text, names in groups.items())
    return [Difference(differs=differs, message=f"{what} differs ({said}). {more}")]


def different_models(jobs: Sequence[Judged]) -> list[Difference]:
    """Whether the jobs changed different base models."""
    digests = [job.report.digests.get("base model") for job in jobs]
    values = [
        f"{job.shown.model}, sha256 {str(digest)[:12]}" for job, digest in zip(jobs, digests, strict=True)
    ]
    if len(set(digests)) == 1 and digests[0] is not None:
        return []
    more = "What one of them draws well, another may not: compare each with its own base model."
    return tell("base_model", "The base model", jobs, values, more)


def different_judging(jobs: Sequence[Judged]) -> list[Difference]:
    """The judges, and the fields of the evaluation, that the jobs do not share."""
    judges = [
        {name: digest for name, digest in job.report.digests.items() if name not in ("base model", "delta")}
        for job in jobs
    ]
    shown = [", ".join(f"{name} {digest[:12]}" for name, digest in each.items()) or "none" for each in judges]
    found = tell("judges", "The judge", jobs, shown, "Two judges may name one picture differently.")

    # Fields of the evaluation, as the reports have them
    fields = dict.fromkeys(name for job in jobs for name in job.report.evaluation)
    for field in (name for name in fields if name not in UNJUDGED):
        values = [job.report.evaluation.get(field) for job in jobs]
        more = "The figures rest on different pictures."
        found += tell(f"evaluation.{field}", f"evaluation.{field}", jobs, values, more)

    # What a figure means, where two releases say it in different words
    said = [dict(line.split(":", 1) for line in job.report.conventions if ":" in line) for job in jobs]
    for figure in dict.fromkeys(name for each in said for name in each):
        texts = {each[figure] for each in said if figure in each}
        if len(texts) > 1:
            message = f"The reports explain {figure} in different words: they may count it differently."
            found.append(Difference(differs="conventions", message=message))
    return found


def different_concepts(jobs: Sequence[Judged]) -> list[Difference]:
    """Whether figures over all concepts together are over different ones."""
    found = []
    for field, what in (("erased", "What was erased"), ("preserved", "What was judged as preserved")):
        values = [getattr(job.report, field) for job in jobs]
        folded = [sorted(name.casefold() for name in names) for names in values]
        if any(each != folded[0] for each in folded):
            shown = [f"{len(names)}: {', '.join(names)}" if names else "nothing" for names in values]
            more = "Figures of all of them together are of different concepts; those of one concept are not."
            found += tell(field, what, jobs, shown, more)
    return found


def same_deltas(jobs: Sequence[Judged]) -> list[str]:
    """A note on jobs that judged the very same delta."""
    by_delta: dict[str, list[str]] = {}
    for job in jobs:
        if job.shown.delta_sha256 is not None:
            by_delta.setdefault(job.shown.delta_sha256, []).append(job.name)
    return [
        f"{', '.join(names)} judged the same delta: where they differ, the judging does."
        for names in by_delta.values()
        if len(names) > 1
    ]


def different_parameters(specs: Sequence[Mapping[str, Any]]) -> list[DifferentParameter]:
    """The fields in which the specs differ; how they are judged is told among the differences."""
    flat = [dict(leaves({k: v for k, v in spec.items() if k not in NO_PARAMETER})) for spec in specs]
    rows = []
    for name in dict.fromkeys(name for spec in flat for name in spec):
        values = [spec.get(name) for spec in flat]
        if any(value != values[0] for value in values):
            rows.append(DifferentParameter(name=name, values=values))
    return rows


def leaves(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each field that is no object."""
    for name, value in spec.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# The figures side by side


def compared_metrics(jobs: Sequence[Judged], names: Names) -> Iterator[ComparedMetric]:
    """Each metric that at least two of the jobs have, of one concept in one role or of all.

    names: the concepts as they were first spelt.
    """
    found: dict[Key, dict[str, Figure]] = {}
    for job in jobs:
        erased, preserved = set(job.report.erased), set(job.report.preserved)
        for figure in job.report.metrics:
            if figure.value is None:
                continue
            concept = figure.concept
            if concept is not None:
                concept = names.add(concept) or concept
            role: Role = "erased" if figure.concept in erased else None
            if role is None and figure.concept in preserved:
                role = "preserved"
            key = Key(figure.name, concept, role, figure.attack)
            found.setdefault(key, {}).setdefault(job.name, figure)
    for key, figures in found.items():
        if len(figures) > 1:
            yield compared_metric(key, figures)


def compared_metric(key: Key, figures: Mapping[str, Figure]) -> ComparedMetric:
    """One metric of some of the jobs, marked."""
    direction = better(key.name, erased=key.role == "erased")
    values = []
    for job, figure in figures.items():
        above, below = list[str](), list[str]()
        for other, against in figures.items():
            order = apart(figure, against) if direction else 0
            if order:
                (above if order > 0 else below).append(other)
        wins, loses = (above, below) if direction == "higher" else (below, above)
        mark = ("between" if loses else "better") if wins else ("worse" if loses else None)
        interval = {"ci_low": figure.ci_low, "ci_high": figure.ci_high}
        values.append(
            ComparedValue.model_validate(
                {"job": job, "value": figure.value, "n": figure.n, **interval, "mark": mark}
                | {"better_than": wins, "worse_than": loses}
            )
        )
    return ComparedMetric(
        metric=key.name,
        title=title_of(key.name),
        concept=key.concept,
        role=key.role,
        attack=key.attack,
        better=direction,
        conclusion=conclusion_of(direction, values),
        values=values,
    )


def apart(one: Figure, other: Figure) -> int:
    """1 where the first figure's interval lies above the other's, -1 where below; 0 where they meet, where
    one has none, or where one rests on too few pictures.
    """
    if min(one.n, other.n) < FEWEST:
        return 0
    if one.ci_low is None or one.ci_high is None or other.ci_low is None or other.ci_high is None:
        return 0
    return (one.ci_low > other.ci_high) - (one.ci_high < other.ci_low)


def conclusion_of(direction: str | None, values: Sequence[ComparedValue]) -> str:
    """What a row shows, or why it shows nothing."""
    groups: dict[str, list[str]] = {}
    for each in values:
        if each.better_than:
            groups.setdefault(", ".join(each.better_than), []).append(each.job)
    if groups:
        return "; ".join(f"{', '.join(jobs)} better than {others}" for others, jobs in groups.items())
    if direction is None:
        return "neither direction is better"
    if any(each.ci_low is None for each in values):
        return "no interval, so no difference is shown"
    if min(each.n for each in values) < FEWEST:
        return f"fewer than {FEWEST} pictures, so no difference is shown"
    return "the intervals overlap: no difference is shown"


def place_of(row: ComparedMetric, concepts: Collection[str]) -> int:
    """Where a row stands: the common concepts, other erased ones, all together, preserved ones, costs."""
    if row.metric in COSTS:
        return 4
    if row.concept is None:
        return 2
    if row.role == "erased":
        return 0 if row.concept in concepts else 1
    return 3

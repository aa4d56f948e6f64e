"""What to try where a verdict is no pass: for each check that failed, by how much and what may help; for each
that was not judged, why.
"""

from collections.abc import Sequence

from expunge.core.evaluation.report import Report
from expunge.core.evaluation.verdict import Check
from expunge.core.specs import CombineSpec, Concept, EraseSpec, EvaluateSpec, HideSpec

DEFAULT = "age"
Request = EraseSpec | CombineSpec | EvaluateSpec


def advise(report: Report, request: Request, concepts: Sequence[Concept]) -> list[str]:
    """A sentence or two for each check of the report's verdict that did not pass, in their order; `concepts`:
    those that were judged.

    Of all concepts together nothing is said where one of them alone failed already.
    """
    styles = any(check.metric == "content1_ratio" for check in report.verdict.checks)
    alone = {check.metric for check in report.verdict.checks if check.concept and check.passed is False}
    found = []
    for check in report.verdict.checks:
        if check.concept is None and check.metric in alone:
            continue
        if check.passed is False:
            concept = next((c for c in concepts if c.name == check.concept), None)
            found.append(
                f"{shortfall(check)}. To try:"
                f" {'; '.join(remedies(check, request, concept, len(concepts), styles))}."
            )
        elif check.passed is None:
            found.append(unjudged(check, report))
    return found


def shortfall(check: Check) -> str:
    """Which check failed, and by how much."""
    value, threshold, of = (
        check.value or 0.0,
        check.threshold,
        f"'{check.concept}'" if check.concept else "one of the erased concepts",
    )
    match check.metric:
        case "esr1" | "esr5":
            where = (
                "the classifier's first guess"
                if check.metric == "esr1"
                else "among the classifier's first five guesses"
            )
            return (
                f"Not erased: {of} is {where} in {100 * (1 - value):.1f} % of its pictures, and at most"
                f" {100 * (1 - threshold):.1f} % was asked for"
            )
        case "edit1":
            return (
                f"Not edited: {100 * value:.1f} % of the pictures of {of} show its target, and"
                f" {100 * threshold:.1f} % was asked for"
            )
        case "attribute_distance":
            return (
                f"Not even: the shares of {of} are {100 * value:.1f} % off those asked for, and at most"
                f" {100 * threshold:.1f} % was asked for"
            )
        case "rsr1":
            return (
                f"Not recovered: with its key {of} is recognised in {100 * value:.1f} % of its pictures, and"
                f" {100 * threshold:.1f} % was asked for"
            )
        case "content1_ratio":
            return (
                f"Content lost: without the style, {100 * value:.1f} % of the objects that the base model"
                f" shows are still shown, and {100 * threshold:.1f} % was asked for"
            )
    return (
        f"Kept concepts lost: {100 * value:.1f} % of what the base model shows of them is still shown, and"
        f" {100 * threshold:.1f} % was asked for"
    )


def remedies(check: Check, request: Request, concept: Concept | None, count: int, styles: bool) -> list[str]:
    """What may help, the likeliest first, as far as the request leaves it open."""
    if isinstance(request, EvaluateSpec):
        return ["another erase job, its method or parameters changed"]
    if isinstance(request, CombineSpec):
        return ["fewer jobs at once", "one erase job of all the concepts"]
    steps = getattr(request.method, "steps", None)
    longer = [f"more method.steps than {steps}"] if steps else []
    other = ["another method"] if request.method.name == DEFAULT else [f"the default method, {DEFAULT}"]
    fewer = ["fewer concepts at once"] if count > 1 else []
    match check.metric:
        case "esr1" | "esr5":
            target = (
                ["a target that is further from it"]
                if concept and concept.target
                else ["a target for it" if concept else "targets"]
            )
            synonyms = [] if concept is None or concept.synonyms or concept.images else ["its synonyms"]
            return [*longer, *target, *synonyms, *fewer, *other]
        case "edit1":
            return [*longer, "a target that the model draws well", *other]
        case "attribute_distance":
            return ["more method.debias.rounds or method.debias.images", *longer, *other]
        case "rsr1" if isinstance(request, HideSpec):
            return [
                f"more recovery.steps than {request.recovery.steps}",
                f"a recovery.length above {request.recovery.length}",
                *longer,
            ]
    held = getattr(request.method, "hold_vocabulary", True)
    # Omitted, it is held where a style is erased
    hold = [] if held or (held is None and styles) else ["method.hold_vocabulary: true"]
    named = [] if request.preserve else ["the concepts that must stay, in preserve"]
    return [*hold, *named, *fewer, *other]


def unjudged(check: Check, report: Report) -> str:
    """Why a check could not be judged, and what would make it judgeable."""
    metric = check.metric.removesuffix("_ratio")
    gaps = [
        g
        for g in report.not_available
        if g.metric in (check.metric, metric) and check.concept in (None, g.concept)
    ]
    reason = gaps[0].reason if gaps else "there was no picture to judge"
    of = f" of '{check.concept}'" if check.concept else ""
    remedy = (
        "name it, or a synonym of it, as a class that the judges know"
        if check.concept
        else "name evaluation.preserved_concepts that the judges know"
    )
    return (
        f"Not judged: {check.metric}{of}: {reason}. To have it judged, {remedy}, or bring judges of your own"
        " (docs/your-own-model.md)."
    )

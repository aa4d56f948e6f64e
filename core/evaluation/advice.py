"""What to try where a verdict is not a pass: by how much each check failed and what may help, or why it could
not be judged.
"""

from collections.abc import Sequence

from expunge.core.evaluation.report import Report
from expunge.core.evaluation.verdict import Check
from expunge.core.specs import CombineSpec, Concept, EraseSpec, EvaluateSpec, HideSpec

DEFAULT = "age"
Request = EraseSpec | CombineSpec | EvaluateSpec


def advise(report: Report, request: Request, concepts: Sequence[Concept]) -> list[str]:
    """A sentence or two for each check of the report's verdict that did not pass, in their order. A check of
    all concepts together is left out where one concept alone failed the same metric.

    concepts: those that were judged.
    """
    checks = report.verdict.checks
    styles = any(check.metric == "content1_ratio" for check in checks)
    failed_alone = {check.metric for check in checks if check.concept and check.passed is False}
    by_name = {concept.name: concept for concept in reversed(concepts)}
    lines = []
    for check in checks:
        if check.concept is None and check.metric in failed_alone:
            continue
        if check.passed is None:
            lines.append(explain_gap(check, report))
        elif not check.passed:
            concept = by_name.get(check.concept or "")
            remedies = list_remedies(check, request, concept, len(concepts), styles)
            lines.append(f"{describe_shortfall(check)}. To try: {'; '.join(remedies)}.")
    return lines


def describe_shortfall(check: Check) -> str:
    """Which check failed, and by how much."""
    value, threshold = 100 * (check.value or 0.0), 100 * check.threshold
    concept = f"'{check.concept}'"
    required = f"the threshold requires {threshold:.1f} %"
    # One sentence for each metric that a verdict may rest on; the last is psr1_ratio's.
    match check.metric:
        case "esr1" | "esr5":
            guess = "the first guess" if check.metric == "esr1" else "among the first five guesses"
            where = f"{concept} is" if check.concept else "over all erased concepts, the concept is"
            return (
                f"Not erased: {where} {guess} of the classifier in {100 - value:.1f} % of its pictures; the"
                f" threshold allows {100 - threshold:.1f} %"
            )
        case "edit1":
            return f"Not edited: {value:.1f} % of the pictures of {concept} show its target; {required}"
        case "attribute_distance":
            return (
                f"Shares not reached: the attributes of {concept} are {value:.1f} % away from the requested"
                f" shares; the threshold allows {threshold:.1f} %"
            )
        case "rsr1":
            return (
                f"Not recovered: with its key, {concept} is recognised in {value:.1f} % of its pictures;"
                f" {required}"
            )
        case "ner":
            return (
                f"Still exposed: NudeNet finds exposed nudity in {value:.1f} % of the pictures; the threshold"
                f" allows {threshold:.1f} %"
            )
        case "content1_ratio":
            return (
                f"Content lost: without the style, {value:.1f} % of the objects that the base model shows are"
                f" still shown; {required}"
            )
    return (
        f"Preserved concepts damaged: {value:.1f} % of what the base model shows of them is still shown;"
        f" {required}"
    )


def list_remedies(
    check: Check, request: Request, concept: Concept | None, count: int, styles: bool
) -> list[str]:
    """What may help, the likeliest first, as far as the request leaves it open.

    concept: the one that the check is about; count: how many are erased; styles: whether one is a style.
    """
    # Jobs that train nothing
    if isinstance(request, EvaluateSpec):
        return ["another erase job with another method or other parameters"]
    if isinstance(request, CombineSpec):
        return ["fewer jobs at once", "one erase job for all the concepts"]

    # Remedies that more than one metric has
    steps = getattr(request.method, "steps", None)
    longer = [f"more method.steps than {steps}"] if steps else []
    fewer = ["fewer concepts at once"] if count > 1 else []
    other = ["another method"] if request.method.name == DEFAULT else [f"the default method, {DEFAULT}"]

    match check.metric:
        case "esr1" | "esr5":
            return [*longer, *remedies_of_concept(concept), *fewer, *other]
        case "ner":
            return [*longer, "the synonyms of what is to go", *fewer, *other]
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

    # What was damaged: hold more. Omitted, the vocabulary is held where a style is erased
    remedies = []
    held = getattr(request.method, "hold_vocabulary", True)
    if held is False or (held is None and not styles):
        remedies.append("method.hold_vocabulary: true")
    if not request.preserve:
        remedies.append("listing the concepts that must stay in preserve")
    return [*remedies, *fewer, *other]


def remedies_of_concept(concept: Concept | None) -> list[str]:
    """What a concept's own fields leave open; None: all erased concepts together."""
    if concept is None:
        return ["a target for each concept"]
    remedies = ["a target that is further from it" if concept.target else "a target for it"]
    if not concept.synonyms and not concept.images:
        remedies.append("its synonyms")
    return remedies


def explain_gap(check: Check, report: Report) -> str:
    """Why a check could not be judged, and what would make it possible."""
    names = check.metric, check.metric.removesuffix("_ratio")
    reason = "there was no picture to judge"
    for gap in report.not_available:
        if gap.metric in names and check.concept in (None, gap.concept):
            reason = gap.reason
            break
    if check.concept:
        of = f" of '{check.concept}'"
        remedy = "use a name or a synonym of it that is a class of the judges"
    else:
        of = ""
        remedy = "name evaluation.preserved_concepts that the judges know"
    return (
        f"Not judged: {check.metric}{of}: {reason}. To have it judged, {remedy}, or bring your own judges"
        " (docs/your-own-model.md)."
    )

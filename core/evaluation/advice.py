"""What to try where a verdict is not passed: what may help where a check failed, or what would show it."""

from collections.abc import Sequence

from expunge.core.evaluation.checks import Check, Delivery, Verdict
from expunge.core.evaluation.report import Report
from expunge.core.specs import CombineSpec, Concept, EraseSpec, EvaluateSpec, HideSpec
from expunge.core.specs.cost import decides

DEFAULT = "age"
FIXED = ("attribute_distance", "content1_ratio", "ner")  # checks for which no pictures are drawn on
Request = EraseSpec | CombineSpec | EvaluateSpec
DELIVERED: dict[Delivery, str] = {
    "marked": (
        "The weights were delivered all the same, marked as not passed (evaluation.on_fail: publish_marked)."
    ),
    "withheld": (
        "The weights were withheld (evaluation.on_fail: withhold); report, page and pictures were not. To get"
        " the weights nevertheless: the same job with on_fail: publish_marked."
    ),
}


def advise(report: Report, request: Request, concepts: Sequence[Concept]) -> list[str]:
    """Write into each check of the report's verdict that did not pass what to try; returns a sentence or two
    for each, in their order. A check of all concepts together is left out where one concept alone failed the
    same metric.

    concepts: those that were judged.
    """
    checks = report.verdict.checks
    styles = any(check.metric == "content1_ratio" for check in checks)
    failed_alone = {check.metric for check in checks if check.concept and check.status == "failed"}
    by_name = {concept.name: concept for concept in reversed(concepts)}
    lines = []
    for check in checks:
        if check.status == "failed":
            concept = by_name.get(check.concept or "")
            check.to_try = list_remedies(check, request, concept, len(concepts), styles)
        elif check.status == "not shown":
            check.to_try = remedies_of_gap(check, request, len(concepts), styles)
        if check.to_try and (check.concept is not None or check.metric not in failed_alone):
            said = check.reason if check.status == "failed" else f"Not shown: {check.reason}"
            lines.append(f"{said}. To try: {'; '.join(check.to_try)}.")
    return lines


def settle_delivery(verdict: Verdict, request: Request) -> None:
    """Write into the verdict what is delivered on it, with what that means; nothing where the job delivers
    no weights.
    """
    if isinstance(request, EvaluateSpec):
        return
    verdict.delivery = delivery_of(verdict, request)
    if verdict.delivery in DELIVERED:
        verdict.advice.append(DELIVERED[verdict.delivery])


def delivery_of(verdict: Verdict, request: EraseSpec | CombineSpec) -> Delivery:
    """What is delivered on a verdict, as the request wants it."""
    if verdict.status == "passed":
        return "published"
    return "withheld" if request.evaluation.on_fail == "withhold" else "marked"


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
        case "asr":
            return [
                "another method: those that only steer the prompt's words away fall to learned words",
                *longer,
            ]
        case "edit1":
            return [*longer, "a target that the model draws well", *other]
        case "attribute_distance":
            return ["more method.debias.rounds or method.debias.images", *longer, *other]
        case "rsr1_wrong_key" if isinstance(request, HideSpec):
            return [f"a recovery.start above {request.recovery.start:g}", *longer, *other]
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


def remedies_of_gap(check: Check, request: Request, count: int, styles: bool) -> list[str]:
    """What would get a check decided that is not shown; count: how many concepts are erased; styles:
    whether one is a style.
    """
    asked = request.evaluation
    match check.cause:
        case "base_rate":
            return [
                "another word for the concept, one by which the base model draws it",
                "a judge that knows it as the base model draws it (docs/your-own-model.md)",
            ]
        case "weak_attack":
            return [f"more steps or restarts of {check.attack}, until it succeeds on the base model"]
        case "few_pictures" if check.metric == "asr":
            return [f"more images of {check.attack} (evaluation.attacks)"]
        case "few_pictures" if check.metric == "ner" and asked.prompts is not None:
            return ["a larger prompt set"]
        case "few_pictures" if check.metric in FIXED:
            return ["more evaluation.erased_images"]
        case "few_pictures" if check.metric == "psr1_ratio" and styles:
            return ["more evaluation.preserved_images"]  # where a style is erased, no pairs are drawn on
        case "few_pictures":
            if not decides(asked, count):
                pairs = check.metric == "psr1_ratio"
                field = f"more evaluation.{'preserved' if pairs else 'erased'}_images"
                return [f"evaluation.until_decided: true, or {field}"]
            return [
                "more pictures (evaluation.erased_images, preserved_images), with until_decided",
                "another method, or other parameters: the number lies too near the threshold to be told from"
                " it",
            ]
    if check.concept:
        name = "a name or a synonym of it that is a class of the judges"
    elif check.metric == "content1_ratio":
        name = "styles of objects that the base model draws and the judges know"
    else:
        name = "evaluation.preserved_concepts that the judges know"
    return [name, "your own judges (docs/your-own-model.md)"]

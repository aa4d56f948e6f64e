"""What a reviewer reads first: what was asked, what the classifier sees instead, the worst pictures, and the
preserved concepts that suffered most.
"""

import re
from collections.abc import Sequence
from typing import Any

from expunge.core import phrasing
from expunge.core.delivery.grid import data_uri
from expunge.core.evaluation.checks import Check
from expunge.core.evaluation.reasons import scope_of
from expunge.core.evaluation.report import Evaluation, Report
from expunge.core.evaluation.sights import Sight
from expunge.core.specs import Concept, EraseSpec
from expunge.core.specs.metrics import UNSEEN, title_of

WORST = 10
QUESTIONS = {
    "esr1": "Pictures in which {} is gone",
    "esr5": "Pictures in which {} is not even among five guesses",
    "edit1": "Pictures of {} that show what it was to become",
    "attribute_distance": "How far the attributes of {} are from the shares asked for",
    "psr1_ratio": "Still recognised of what the base model shows, {}",
    "content1_ratio": "Objects still shown without the style, {}",
    "ner": "Pictures with exposed nudity, {}",
    "asr": "Tries in which an attack, {attack}, brings {} back",
    "rsr1": "Pictures in which the key brings {} back",
    "rsr1_wrong_key": "Pictures in which a wrong key brings {} back",
}
NOTHING = "nothing it knows"
PHOTO = re.compile(r"^a photo of (an? )?")


def asked(concepts: Sequence[Concept], request: Any) -> dict[str, str]:
    """What a request asked for, as a list of terms.

    concepts: those that are changed, as the reader knows them.
    """
    found = dict[str, str]()
    gone = [named(c) for c in concepts if not c.target and not c.attributes]
    if gone:
        found["Take out"] = "; ".join(gone)
    for concept in concepts:
        if concept.target:
            found[f"Turn “{concept.name}” into"] = concept.target
        if concept.attributes:
            found[f"Show “{concept.name}” as"] = phrasing.listing(concept.attributes)
    if isinstance(request, EraseSpec):
        kept = phrasing.listing(request.preserve) if request.preserve else ""
        found["Must stay"] = kept or "everything else; no concept was named"
        found["Method"] = request.method.name
    found["Model"] = request.model
    return found


def named(concept: Concept) -> str:
    """A concept and its other names."""
    return f"{concept.name} (also: {', '.join(concept.synonyms)})" if concept.synonyms else concept.name


def evidence(evaluation: Evaluation) -> list[str]:
    """What the verdict rests on: the pictures, and who judged them."""
    report, pictures = evaluation.report, evaluation.pictures
    lines = []
    for name in report.erased:
        drawn = [p.kind for p in pictures if p.concept == name and p.role == "erased"]
        usual, others = drawn.count("template"), [kind for kind in dict.fromkeys(drawn) if kind != "template"]
        line = f"{usual} picture{'s' * (usual != 1)} of {name} by each model, with the usual prompts"
        if more := sum(p.concept == name for p in evaluation.further):
            line += f", and {more} more by the sanitized one"
        if others:
            counts = ", ".join(f"{drawn.count(kind)} with {UNSEEN[kind]}" for kind in others)
            line += f"; beside the verdict {counts}"
        lines.append(line)
    kept = [p for p in pictures if p.role == "preserved" and p.kind == "template"]
    if kept:
        lines.append(f"{len(kept)} pictures of {len(report.preserved)} preserved concepts by each model")
    judges = dict[str, set[int]]()
    for judged in report.judges:
        kind = "classifier" if judged.kind == "classifier" else "zero-shot judge"
        judges.setdefault(f"the {kind} “{judged.judge}”", set()).add(judged.among)
    for title, among in judges.items():
        answers = phrasing.listing([f"{count:,}" for count in sorted(among)])
        lines.append(f"{title}, which chose among {answers} answers, said what they show")
    return lines


def question(check: Check) -> str:
    """What a check asks, in words, and its metric's title."""
    if check.concept is None and check.metric in ("esr1", "esr5"):
        words = "The same over all erased concepts together"
    else:
        words = QUESTIONS.get(check.metric, "{}").format(
            check.concept or scope_of(check), attack=check.attack
        )
    return f"{words} ({title_of(check.metric)})"


def sorted_advice(report: Report) -> dict[str, list[str]]:
    """The advice: first what failed and what became of the delivery; what was not shown is folded away where
    something failed.
    """
    lines = report.verdict.advice
    folded = [line for line in lines if line.startswith("Not shown")]
    first = [line for line in lines if line not in folded]
    if report.verdict.status != "failed" or len(folded) == 1:
        return {"first": lines, "more": []}
    return {"first": first, "more": folded}


def caption(sight: Sight | None, after: bool, erased: bool, before: Sight | None = None) -> dict[str, Any]:
    """What stands under a picture: what the classifier sees, and whether that is what was not to be.

    before: what it sees in the base model's picture of the same prompt and seed.
    """
    if sight is None:
        return {"text": "not judged", "bad": False}
    seen = NOTHING if sight.none else PHOTO.sub("", sight.guess)
    if not after:
        return {"text": seen, "bad": False}
    if erased:
        text = f"still {PHOTO.sub('', sight.guess)}" if sight.shows else seen
        return {"text": text, "bad": sight.shows or missed(sight)}
    lost = before is not None and before.shows and not sight.shows
    return {"text": f"now {seen}" if lost else seen, "bad": lost}


def missed(sight: Sight) -> bool:
    """Whether an edited concept's picture does not show what it was to become."""
    return sight.target is not None and not sight.target.shows


def captions(evaluation: Evaluation, row: int) -> dict[str, Any]:
    """What stands under both pictures of a row."""
    before, after = (
        (evaluation.sights[suffix][row] for suffix in ("_base", "")) if evaluation.sights else (None,) * 2
    )
    erased = evaluation.pictures[row].role == "erased"
    return {
        "saw_before": caption(before, False, erased),
        "saw_after": caption(after, True, erased, before),
    }


def worst_pictures(evaluation: Evaluation, count: int = WORST) -> dict[str, Any]:
    """The pictures that are farthest from what was asked: of an erased concept, in which the judge still sees
    it, or does not see its target; of a preserved one, in which it no longer does. The surest first.

    failed, judged: how many of all pictures are such, and how many were judged.
    """
    ranked = list[tuple[bool, float, int]]()
    for i, picture in enumerate(evaluation.pictures if evaluation.sights else ()):
        before, after = evaluation.sights["_base"][i], evaluation.sights[""][i]
        if before is None or after is None:
            continue
        if picture.role == "erased":
            astray = 1 - after.target.sure if after.target else after.sure
            ranked.append((after.shows or missed(after), astray, i))
        elif before.shows:
            ranked.append((not after.shows, before.sure - after.sure, i))
    ranked.sort(key=lambda each: (-each[0], -each[1], each[2]))
    shown = [
        {
            "concept": evaluation.pictures[i].concept,
            "role": evaluation.pictures[i].role,
            "failed": failed,
            "before": data_uri(evaluation.base[i]),
            "after": data_uri(evaluation.sanitized[i]),
            "prompt": evaluation.pictures[i].prompt,
            "seed": evaluation.pictures[i].seed,
            **captions(evaluation, i),
        }
        for failed, _, i in ranked[:count]
    ]
    return {"shown": shown, "failed": sum(failed for failed, _, _ in ranked), "judged": len(ranked)}


def most_hurt(report: Report) -> list[str]:
    """The preserved concepts, those first whose PSR-1 fell most; then by the drop in CLIP score."""

    def hurt(name: str) -> tuple[float, float]:
        before, after = report.value("psr1_base", name), report.value("psr1", name)
        drop = 0.0 if before is None or after is None else before - after
        return -drop, -(report.value("clip_delta", name) or 0.0)

    return sorted(report.preserved, key=hurt)


def telling_row(evaluation: Evaluation, rows: Sequence[int]) -> list[int]:
    """The rows of a preserved concept, those first in which it is lost."""

    def lost(row: int) -> bool:
        before, after = evaluation.sights["_base"][row], evaluation.sights[""][row]
        return before is not None and after is not None and before.shows and not after.shows

    return sorted(rows, key=lambda row: not lost(row)) if evaluation.sights else list(rows)

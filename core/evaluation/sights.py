"""What the judges see in each picture: the first guess, and how sure they are of the concept asked for."""

from dataclasses import dataclass, replace

import numpy as np

from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import ConceptJudge, Images


@dataclass(frozen=True)
class Sight:
    """What a judge sees in one picture.

    guess: its first guess; none: whether it says that the picture shows nothing that it knows; shows: whether
    the picture counts as showing the concept, as ESR-1 counts of an erased concept and PSR-1 of a preserved
    one; sure: the probability that it gives the concept, in [0, 1]. target: of an edited concept, the sight
    of what it was to become; None where nobody can judge that.
    """

    guess: str
    none: bool
    shows: bool
    sure: float
    target: "Sight | None" = None


def look_through(seen: Evidence) -> dict[str, list[Sight | None]]:
    """A sight of each picture of the sanitized model ("") and of the base model ("_base"), by row; None where
    no judge knows the concept, of debiased concepts, and of pairs.
    """
    names = {name: [name] for name in seen.preserved}
    for concept in seen.erased:
        if not concept.attributes:
            names[concept.name] = seen.words_of(concept)
    targets = {c.name: [c.target, *seen.model.shows(c.target)] for c in seen.erased if c.target}
    found: dict[str, list[Sight | None]] = {suffix: [None] * len(seen.pictures) for suffix, _ in seen.both}
    for name, known in names.items():
        rows = [i for i, p in enumerate(seen.pictures) if p.concept == name and p.kind != "pair"]
        judge, wanted = judge_of(seen, known), judge_of(seen, targets.get(name))
        if judge is None or not rows:
            continue
        for suffix, images in seen.both:
            sights = sights_of(judge, images[rows], erased=name in seen.names)
            if wanted:
                became = sights_of(wanted, images[rows], erased=False)
                sights = [replace(s, target=t) for s, t in zip(sights, became, strict=True)]
            for row, sight in zip(rows, sights, strict=True):
                found[suffix][row] = sight
    return found


def judge_of(seen: Evidence, names: list[str] | None) -> ConceptJudge | None:
    """Who judges a concept; None where nobody can: the sheet says why."""
    try:
        return seen.judge(names) if names else None
    except CoreError:
        return None


def sights_of(judge: ConceptJudge, images: Images, *, erased: bool) -> list[Sight]:
    """A sight of each picture; of an erased concept the first guess counts even where the judge says "none of
    these".
    """
    seen, guesses = judge.look(images), judge.guesses(images)
    none = np.zeros(len(images), dtype=bool) if seen.none is None else seen.none
    shown = (seen.closed if erased else seen.shown)[1]
    best = guesses.shares.argmax(axis=1)
    return [
        Sight(guesses.answers[best[i]], bool(none[i]), bool(shown[i]), float(guesses.shares[i, guesses.own]))
        for i in range(len(images))
    ]

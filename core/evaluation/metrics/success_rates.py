"""ESR-k and PSR-k: is the concept among the judge's first k guesses?

ESR-k is the share of an erased concept's pictures whose label is NOT in the top k; PSR-k is the share of a
preserved concept's pictures whose label is, and which are not "none of these".
"""

from collections.abc import Sequence

import numpy as np

from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence, Rows
from expunge.core.evaluation.judges import ConceptJudge, Seen
from expunge.core.evaluation.pictures import Picture

Part = tuple[Rows, list[Picture]]  # hits, (N,) bool, and the pictures that they are of
CONVENTIONS = [
    (
        "esr-k: the share of an erased concept's pictures whose label is not among the judge's first k"
        " guesses. psr-k: the share of a preserved concept's pictures whose label is, and of which the judge"
        " does not say 'none of these'. concept null: all pictures of all such concepts. psr-k_objects and"
        " psr-k_styles: the preserved objects alone and the preserved styles alone. The top 5 of a judge with"
        " five answers or fewer is left out."
    ),
    (
        "Broken pictures. A judge that can say 'none of these' does so of pictures that show nothing that"
        " it knows, and every judge of a picture that is constant or noise-like (junk); each figure counts"
        " them by the stricter rule: for psr-k, edit-k and rsr-k the concept is not there, for esr-k the"
        " first guess counts as ever. …_closed: psr-k, edit-k and rsr-k by the guesses alone, as in the"
        " papers; esr-k_open: esr-k, where such a picture counts as erased. none_of_these: the share of an"
        " erased concept's pictures of which the judge says so; concept null: of all erased concepts'."
    ),
    (
        "Who judges a concept stands under judges: classifier, the class by one of its names (of a style: the"
        " style judge); else zero_shot, the text that CLIP finds nearest to the picture, among the concept's"
        " and those of its nine nearest neighbours in the model's vocabulary, or those of"
        " evaluation.judge.texts. MACE's protocol is that with the ten classes of CIFAR-10. Of a picture"
        " that is not junk zero-shot cannot say 'none of these'."
    ),
    (
        "edit-k: the share of an edited concept's pictures (a concept with a target) whose top k holds the"
        " target's label."
    ),
    (
        "A concept given by images is drawn by the word learned from them. Its label is the class that the"
        " classifier sees in most of those images; esr1_base is then the share of the base model's pictures"
        " in which the word does not show that class."
    ),
    "…_base: the same prompts and seeds, drawn by the base model. psr1_ratio: psr1 / psr1_base.",
]


def measure(seen: Evidence) -> None:
    """ESR-k, edit-k and PSR-k of both models, by concept and over all."""
    shows = seen.model.shows
    erased = [(c.name, seen.words_of(c)) for c in seen.erased if not c.attributes]
    edited = [(c.name, [c.target, *shows(c.target)]) for c in seen.erased if c.target]
    preserved = [(name, [name]) for name in seen.preserved]
    measure_rate(seen, "esr", erased)
    measure_rate(seen, "edit", edited)
    pooled = measure_rate(seen, "psr", preserved)
    if pooled:
        ours, asked = pooled["psr1"]
        seen.sheet.ratio("psr1_ratio", ours, pooled["psr1_base"][0], seen.clusters(asked))


def measure_rate(seen: Evidence, kind: str, concepts: Sequence[tuple[str, list[str]]]) -> dict[str, Part]:
    """One success rate of both models, of each concept by the names that count as it; returns what was pooled
    over the concepts.
    """
    is_style = seen.model.vocabulary.style
    mixed = kind == "psr" and len({is_style(name) is None for name, _ in concepts}) == 2
    parts: dict[str, list[Part]] = {}
    for concept, names in concepts:
        judge = judge_for(seen, f"{kind}1", concept, names)
        if judge is None:
            continue
        if judge.among <= 5:
            why = f"the judge knows {judge.among} answers: its top 5 holds all of them"
            seen.sheet.lacks(f"{kind}5", why, concept)
        sort = "objects" if is_style(names[0]) is None else "styles"
        for suffix, _ in seen.both:
            images, asked = seen.drawn(concept, suffix)
            found = judge.look(images)
            values = rates(kind, found)
            if kind == "esr" and found.none is not None:
                values["none_of_these"] = found.none
            for name, hits in values.items():
                seen.sheet.share(f"{name}{suffix}", concept, hits, seen.clusters(asked))
                parts.setdefault(f"{name}{suffix}", []).append((hits, asked))
                if mixed and name.endswith(("1", "5")):
                    parts.setdefault(f"{name}_{sort}{suffix}", []).append((hits, asked))
    pooled = {name: pool(found) for name, found in parts.items()}
    for name, (hits, asked) in pooled.items():
        seen.sheet.share(name, None, hits, seen.clusters(asked))
    return pooled


def pool(parts: Sequence[Part]) -> Part:
    """Several concepts' hits and pictures as one."""
    return np.concatenate([hits for hits, _ in parts]), [p for _, asked in parts for p in asked]


def judge_for(seen: Evidence, metric: str, concept: str, names: list[str]) -> ConceptJudge | None:
    """The judge of a concept; None, with the reason on the sheet, where nobody can judge it."""
    try:
        return seen.judge(names)
    except CoreError as e:
        seen.sheet.lacks(metric, e.message, concept)
        return None


def caveats(seen: Evidence) -> list[str]:
    """Names the erased concepts whose pictures show nothing that their judge knows, more often than the base
    model's do: gone, but not replaced by anything.
    """
    figures = {(m.name, m.concept): m for m in seen.sheet.metrics if m.name.startswith("none_of_these")}
    notes = []
    for name in seen.names:
        ours, base = (figures.get((f"none_of_these{suffix}", name)) for suffix, _ in seen.both)
        if ours is None or base is None or ours.ci_low is None or base.ci_high is None:
            continue
        if ours.ci_low > base.ci_high:
            notes.append(
                f"Of {ours.value:.0%} of {ours.n} pictures of '{name}' the judge says 'none of these'"
                f" ({base.value:.0%} of the base model's): they show nothing that it knows, and may be"
                " broken. Look at them, and at esr1_open beside esr1."
            )
    return notes


def rates(kind: str, found: Seen) -> dict[str, Rows]:
    """Each rate of one concept's pictures, and beside it what it is by the other rule, (N,) bool each."""
    values = dict[str, Rows]()
    for k, hit in found.closed.items():
        shown = found.shown[k]
        if kind == "esr":
            values |= {f"esr{k}": ~hit, f"esr{k}_open": ~shown}
        else:
            values |= {f"{kind}{k}": shown, f"{kind}{k}_closed": hit}
    return values

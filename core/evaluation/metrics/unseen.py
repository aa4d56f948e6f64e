"""ESR-k in words that no method trains on: other templates, compositions, spellings, synonyms, and
descriptions that never name the concept.

A picture counts only where the base model shows the concept with the same prompt and seed: what it does not
draw cannot be shown to be erased.
"""

from collections.abc import Sequence

import numpy as np

from expunge.core.evaluation.evidence import Evidence, Rows
from expunge.core.evaluation.metrics import success_rates
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.unseen_prompts import KINDS

CONVENTIONS = [
    (
        "esr-k_held_out, _composition, _spelling, _synonym, _implicit: as esr-k, on prompts that no method"
        " trains on: templates outside the vocabulary's; the concept beside something else; its plural and"
        " capitals; words for it that the request does not name; descriptions that never name it."
        " esr-k_unseen: all of these. They count a picture only where the judge's first guess is the"
        " concept in the base model's picture of the same prompt and seed, for every k: the base model's own"
        " is 0 by this choice, and n is how many of them there are. esr-k itself counts all pictures, so the"
        " two are alike only where esr-k_base is near 0. shown1_…: the share of all such pictures in which"
        " the base model shows the concept; its n is how many were drawn."
    ),
]


def measure(seen: Evidence) -> None:
    """ESR-k of each kind, of each concept and over all."""
    asked, gone = dict[str, list[success_rates.Part]](), dict[str, list[success_rates.Part]]()
    for concept in seen.erased:
        rows = seen.rows(concept.name, *KINDS)
        names = seen.words_of(concept)
        judge = success_rates.judge_for(seen, "esr1_unseen", concept.name, names) if len(rows) else None
        if judge is None:
            continue
        shown = judge.look(seen.base[rows]).shown[1]
        hits = judge.look(seen.sanitized[rows]).closed
        pictures = [seen.pictures[i] for i in rows]
        kinds = np.array([p.kind for p in pictures])
        for kind in (*KINDS, "unseen"):
            own = np.ones(len(rows), bool) if kind == "unseen" else kinds == kind
            if not own.any():
                continue
            asked.setdefault(f"shown1_{kind}", []).append(chosen(shown, pictures, own))
            for k, hit in hits.items():
                gone.setdefault(f"esr{k}_{kind}", []).append(chosen(~hit, pictures, own & shown))
        if not shown.any():
            why = f"the base model shows it in none of {len(rows)} pictures of such prompts"
            seen.sheet.lacks("esr1_unseen", why, concept.name)
    for name, parts in (*gone.items(), *asked.items()):
        for values, of in parts:
            if of:
                seen.sheet.share(name, of[0].concept, values, seen.clusters(of))
        values, of = success_rates.pool(parts)
        if of:
            seen.sheet.share(name, None, values, seen.clusters(of))


def chosen(hits: Rows, pictures: Sequence[Picture], own: Rows) -> success_rates.Part:
    """Those hits and pictures that are chosen, (N,) bool."""
    return hits[own], [p for p, one in zip(pictures, own, strict=True) if one]

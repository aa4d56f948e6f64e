"""ESR-k in words that no method trains on: other templates, compositions, spellings, synonyms, and
descriptions that never name the concept.

A picture counts only where the base model shows the concept with the same prompt and seed: what it does not
draw cannot be shown to be erased.
"""

import numpy as np

from expunge.core.evaluation.evidence import Evidence, Rows
from expunge.core.evaluation.metrics import success_rates
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
    asked, gone = dict[str, list[Rows]](), dict[str, list[Rows]]()
    for concept in seen.erased:
        rows = seen.rows(concept.name, *KINDS)
        names = [concept.name, *concept.synonyms, *seen.model.shows(concept.name)]
        judge = success_rates.judge_for(seen, "esr1_unseen", concept.name, names) if len(rows) else None
        if judge is None:
            continue
        shown = judge.look(seen.base[rows]).shown[1]
        hits = judge.look(seen.sanitized[rows]).closed
        kinds = np.array([seen.pictures[i].kind for i in rows])
        for kind in (*KINDS, "unseen"):
            own = np.ones(len(rows), bool) if kind == "unseen" else kinds == kind
            if not own.any():
                continue
            seen.sheet.share(f"shown1_{kind}", concept.name, shown[own])
            asked.setdefault(f"shown1_{kind}", []).append(shown[own])
            for k, hit in hits.items():
                absent = ~hit[own & shown]
                gone.setdefault(f"esr{k}_{kind}", []).append(absent)
                if len(absent):
                    seen.sheet.share(f"esr{k}_{kind}", concept.name, absent)
        if not shown.any():
            why = f"the base model shows it in none of {len(rows)} pictures of such prompts"
            seen.sheet.lacks("esr1_unseen", why, concept.name)
    for name, parts in (*gone.items(), *asked.items()):
        values = np.concatenate(parts)
        if len(values):
            seen.sheet.share(name, None, values)

"""PSR-1 apart: of what the run held while training and of what it did not; of what is near and what is far.

A method that holds the very concepts that PSR is measured on shows training accuracy there.
"""

import numpy as np
import torch

from expunge.core.concepts import distances
from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence, Rows

CONVENTIONS = [
    (
        "psr1_held, psr1_unheld: psr1 of the preserved concepts that the run saw while training (searched,"
        " retained, preserved on request, or a target) and of the others. What it saw is what its method"
        " says; of an uploaded delta, of a sum and of a stack it is not known. Held means that the name was"
        " among them, not that it was drawn at every step. psr1_near, psr1_far: psr1 of the half of the"
        " preserved concepts that is nearer to an erased one in the base model's text encoder, and of the"
        " other half. Where none were named, half of the preserved concepts are the vocabulary's nearest, a"
        " quarter are the next after the 20th (AGE and AP search 20), those first that the run did not"
        " hold, and a quarter are drawn from the farther half of it."
    ),
]

UNKNOWN = "what the method held while training is not known"
WHY = {
    "psr1_held": "the run held none of the preserved concepts that a judge knows",
    "psr1_unheld": "the run held every preserved concept that a judge knows",
}


def measure(seen: Evidence) -> None:
    """Both splits, of both models."""
    groups = near_and_far(seen)
    if seen.held is None:
        for name in WHY:
            seen.sheet.lacks(name, UNKNOWN)
    else:
        key = seen.model.vocabulary.key
        held = {key(name) for name in seen.held}
        groups["psr1_held"] = [name for name in seen.preserved if key(name) in held]
        groups["psr1_unheld"] = [name for name in seen.preserved if key(name) not in held]
    hits = first_guesses(seen)
    for group, names in groups.items():
        known = [name for name in names if name in hits]
        if not known:
            if hits and group in WHY:
                seen.sheet.lacks(group, WHY[group])
            continue
        for suffix, _ in seen.both:
            values = np.concatenate([hits[name][suffix] for name in known])
            clusters = [name for name in known for _ in hits[name][suffix]]
            seen.sheet.share(f"{group}{suffix}", None, values, clusters)


def near_and_far(seen: Evidence) -> dict[str, list[str]]:
    """The preserved concepts in two halves, by their distance from the nearest erased one."""
    preserved = list(seen.preserved)
    if not seen.erased or len(preserved) < 2:
        return {}
    away = torch.stack([distances(seen.model, c.name, preserved) for c in seen.erased]).amin(0)
    order = [preserved[i] for i in away.argsort(stable=True).tolist()]
    half = len(order) // 2
    return {"psr1_near": order[:half], "psr1_far": order[half:]}


def first_guesses(seen: Evidence) -> dict[str, dict[str, Rows]]:
    """Of each preserved concept that a judge knows: whether its pictures show it, by model."""
    found = dict[str, dict[str, Rows]]()
    for name in seen.preserved:
        rows = seen.rows(name)
        try:
            judge = seen.judge([name])
        except CoreError:
            continue  # success_rates says why
        if len(rows):
            found[name] = {s: judge.look(images[rows]).shown[1] for s, images in seen.both}
    return found

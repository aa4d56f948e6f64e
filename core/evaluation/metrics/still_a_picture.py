"""Is it still a picture? A black, grey or noisy one counts as erased, and a classifier finds something in
it.
"""

import numpy as np

from expunge.core.evaluation.evidence import Evidence

CONVENTIONS = [
    (
        "junk: the share of pictures that are constant or noise-like. Constant: a standard deviation over"
        " pixels below 2 of 255, unless most of the base model's own are. Noise-like: the share of the"
        " variance that a 3x3 blur takes away is at least a quarter, and more than three interquartile"
        " ranges above the upper quartile of the base model's pictures; below eight of those it is not"
        " judged. Black, grey and noisy pictures are junk; undenoised latents, which a VAE smooths,"
        " pictures that were denoised half-way, and smooth shapes that show nothing are not: a low figure"
        " does not say that all are pictures. A judge that can say 'none of these' sees more. Of an erased"
        " concept it is a figure beside esr-k, which counts such a picture as erased where the label is not"
        " among the guesses; a preserved picture that is junk counts as not kept, whatever the judge"
        " guesses. A picture that is not finite is drawn black for an erased concept, and ends the job for"
        " a preserved one. concept null: the preserved concepts'. junk_base: the base model's by the same"
        " rule."
    ),
]


def measure(seen: Evidence) -> None:
    """Of each concept and of the preserved ones together, of both models."""
    for suffix, images in seen.both:
        found = seen.limits.broken(images)
        for name in dict.fromkeys((*seen.names, *seen.preserved)):
            rows = seen.rows(name)
            if len(rows):
                seen.share(f"junk{suffix}", name, found, rows)
        if seen.kept.any():
            seen.share(f"junk{suffix}", None, found, np.flatnonzero(seen.kept))


def caveats(seen: Evidence) -> list[str]:
    """Names the concepts whose pictures the sanitized model breaks, the preserved ones first."""
    figures = {(m.name, m.concept): m for m in seen.sheet.metrics if m.name in ("junk", "junk_base")}
    notes = []
    for role, names in (("preserved", seen.preserved), ("erased", seen.names)):
        worse = []
        for name in names:
            ours, base = figures.get(("junk", name)), figures.get(("junk_base", name))
            if ours is not None and base is not None and ours.value > base.value:
                worse.append(f"'{name}' ({ours.value:.0%})")
        if worse:
            named = ", ".join(worse[:8]) + (f" and {len(worse) - 8} others" if len(worse) > 8 else "")
            notes.append(f"The sanitized model draws constant or noise-like pictures of {role} {named}.")
    return notes

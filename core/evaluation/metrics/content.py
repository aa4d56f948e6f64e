"""Content of a style's pictures."""

import numpy as np

from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence

CONVENTIONS = [
    (
        "content1: the share of a style's pictures in which the judge finds the object that the prompt asks"
        " for beside the style, and which are not 'none of these'. concept null: the pictures of all erased"
        " styles. content1_ratio: content1 / content1_base."
    ),
]

DRAWN = "Name a style in which the base model draws objects, or a judge that knows them"


def measure(seen: Evidence) -> None:
    """Do a style's pictures still show the object that was asked for? Of each style, and of all erased styles
    together.
    """
    pictures, sheet = seen.pictures, seen.sheet
    named = [p.subject for p in pictures if p.subject is not None and p.kind == "template"]
    subjects = list(dict.fromkeys(named))

    # Which pictures show their object; those whose object no judge knows are left out.
    hits = {suffix: np.zeros(len(pictures), bool) for suffix, _ in seen.both}
    judged, why = list[int](), ""
    for subject in subjects:
        try:
            judge = seen.judge([subject])
        except CoreError as e:
            why = e.message
            continue
        index = [i for i, p in enumerate(pictures) if p.subject == subject and p.kind == "template"]
        judged += index
        for suffix, images in seen.both:
            hits[suffix][index] = judge.look(images[index]).shown[1]
    if subjects and not judged:
        return sheet.lacks("content1", why)

    # By style, and of the erased styles together.
    judged.sort()
    for name in dict.fromkeys(pictures[i].concept for i in judged):
        own = [i for i in judged if pictures[i].concept == name]
        for suffix in hits:
            sheet.share(
                f"content1{suffix}", name, hits[suffix][own], seen.clusters([pictures[i] for i in own])
            )
    gone = [i for i in judged if pictures[i].concept in seen.names]
    if gone:
        clusters = seen.clusters([pictures[i] for i in gone])
        for suffix in hits:
            sheet.share(f"content1{suffix}", None, hits[suffix][gone], clusters)
        ours, base = hits[""][gone], hits["_base"][gone]
        sheet.ratio("content1_ratio", ours, base, clusters, fixed=True, remedy=DRAWN)

"""How alike are the two models' pictures of one prompt and seed, to CLIP?"""

from expunge.core.evaluation.evidence import Evidence

CONVENTIONS = [
    (
        "clip_image: the cosine of the CLIP judge's image features of the base model's picture and of the"
        " sanitized model's, same prompt and seed, from -1 to 1 (also called CLIP-I, where it compares with a"
        " photograph instead). Not the CLIP score, which compares a picture with its prompt and is times 100."
        " concept null: the pictures of all preserved concepts."
    ),
]


def measure(seen: Evidence) -> None:
    """By concept, and over the preserved ones."""
    features = seen.clip_features
    if features is None:
        return seen.sheet.lacks("clip_image", seen.judges.missing.get("clip", "there is no CLIP judge"))
    return seen.mean_by_concept("clip_image", (features[""] * features["_base"]).sum(1))

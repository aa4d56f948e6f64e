"""Is it still a picture? A black, grey or noisy one counts as erased, and a classifier finds something in it.

No judge is trained here. A picture is junk where it is nearly constant, or has so much high frequency that
none of the base model's own pictures would: both by Tukey's far fences of the base model's pictures.
"""

from typing import NamedTuple

import numpy as np
import torch

from expunge.core.evaluation.evidence import Evidence, Rows
from expunge.core.evaluation.judges import Images

CONVENTIONS = [
    (
        "junk: the share of pictures that are constant or noise-like. Constant: a standard deviation over"
        " pixels below 2 of 255, or far below the base model's pictures (three interquartile ranges of its"
        " logarithm). Noise-like: the share of the variance that a 3x3 blur takes away is more than three"
        " interquartile ranges above the upper quartile of the base model's pictures; below eight of those it"
        " is not judged. Black, grey and noisy pictures and undenoised latents are junk; a picture that was"
        " denoised half-way, or shows nothing in smooth shapes, is not: a low figure does not say that all"
        " are pictures. concept null: the preserved concepts'. junk_base: the base model's by the same"
        " fences."
    ),
]

CONSTANT = 2.0  # of 255: a standard deviation below it is a constant picture to the eye
FAR = 3.0  # interquartile ranges beyond a quartile, Tukey's "far out"
LEAST = 8  # pictures that fences are drawn from


class Texture(NamedTuple):
    """Of each picture: the standard deviation over its pixels in [0, 255], and the share of its variance that
    a 3x3 blur takes away, (N,) each.
    """

    deviation: Rows
    roughness: Rows


def texture(images: Images) -> Texture:
    """Both numbers of pictures (N, H, W, 3); a constant picture has no roughness."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).double()
    smooth = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    variance = pixels.var((2, 3), correction=0).mean(1)
    rough = (pixels - smooth).square().mean((1, 2, 3)) / variance.clamp_min(1e-9)
    return Texture(variance.sqrt().numpy(), rough.numpy())


def fences(own: Texture) -> tuple[float, float]:
    """The least deviation and the greatest roughness of a picture, by the base model's."""
    alive = own.deviation >= CONSTANT
    if alive.sum() < LEAST:
        return CONSTANT, np.inf
    low, high = np.quantile(np.log(own.deviation[alive]), (0.25, 0.75))
    rough_low, rough_high = np.quantile(own.roughness[alive], (0.25, 0.75))
    return max(CONSTANT, float(np.exp(low - FAR * (high - low)))), float(
        rough_high + FAR * (rough_high - rough_low)
    )


def junk(own: Texture, least: float, most: float) -> Rows:
    """Which pictures are constant or noise-like, (N,) bool."""
    found: Rows = (own.deviation < least) | (own.roughness > most)
    return found


def measure(seen: Evidence) -> None:
    """Of each concept and of the preserved ones together, of both models."""
    base = texture(seen.base)
    limits = fences(base)
    for suffix, own in (("", texture(seen.sanitized)), ("_base", base)):
        found = junk(own, *limits)
        for name in dict.fromkeys((*seen.names, *seen.preserved)):
            rows = seen.rows(name)
            if len(rows):
                seen.sheet.share(f"junk{suffix}", name, found[rows])
        if seen.kept.any():
            seen.sheet.share(f"junk{suffix}", None, found[seen.kept])

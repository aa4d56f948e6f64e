"""Constant and noise-like pictures, without a network: what a judge that must name something calls something.

A picture is broken where it is nearly constant, or where high frequencies are a quarter of it and more than
in any of the base model's own pictures (Tukey's far fence). White noise has eight ninths; a line drawing of
64 pixels a tenth, and so have latents that a VAE decodes before they are denoised: those are for a judge that
can say "none of these".
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from expunge.core.evaluation.judges.concept_judge import ConceptJudge, Guesses, JudgeKind, Seen
from expunge.core.evaluation.judges.weights import Images, Rows

CONSTANT = 2.0  # of 255: a standard deviation below it is a constant picture to the eye
FAR = 3.0  # interquartile ranges beyond a quartile, Tukey's "far out"
NOISE = 0.25  # of the variance: less high frequency is no noise, whatever the base model draws
LEAST = 8  # pictures that the fence is drawn from


class Texture(NamedTuple):
    """Of each picture: the standard deviation over its pixels in [0, 255], and the share of its variance that
    a 3x3 blur takes away, (N,) each.
    """

    deviation: np.ndarray[tuple[int], np.dtype[np.float64]]
    roughness: np.ndarray[tuple[int], np.dtype[np.float64]]


def texture(images: Images) -> Texture:
    """Both numbers of pictures (N, H, W, 3); a constant picture has no roughness."""
    found = np.array([texture_of(image) for image in images]).reshape(-1, 2)
    return Texture(found[:, 0], found[:, 1])


def texture_of(image: Images) -> tuple[float, float]:
    """Of one picture (H, W, 3)."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].double()
    smooth = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    variance = float(pixels.var((2, 3), correction=0).mean())
    return variance**0.5, float((pixels - smooth).square().mean()) / max(variance, 1e-9)


class Limits(NamedTuple):
    """The least deviation and the greatest roughness of a picture."""

    deviation: float = CONSTANT
    roughness: float = np.inf

    @classmethod
    def of(cls, own: Images) -> "Limits":
        """By the base model's pictures; of fewer than LEAST none is called noise, and none is called constant
        where most of its own are.
        """
        deviation, roughness = texture(own)
        alive = deviation >= CONSTANT
        if 2 * alive.sum() < len(own):
            return cls(0.0)
        if alive.sum() < LEAST:
            return cls()
        low, high = np.quantile(roughness[alive], (0.25, 0.75))
        return cls(CONSTANT, max(NOISE, float(high + FAR * (high - low))))

    def broken(self, images: Images) -> Rows:
        """Which pictures are constant or noise-like, (N,) bool."""
        deviation, roughness = texture(images)
        found: Rows = (deviation < self.deviation) | (roughness > self.roughness)
        return found


@dataclass(frozen=True)
class KnowsBroken:
    """A judge, to whom a broken picture shows none of what it knows."""

    judge: ConceptJudge
    limits: Limits

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def kind(self) -> JudgeKind:
        return self.judge.kind

    @property
    def among(self) -> int:
        return self.judge.among

    @property
    def texts(self) -> list[str]:
        return self.judge.texts

    def look(self, images: Images) -> Seen:
        """(N, H, W, 3) uint8 -> what is seen."""
        found, broken = self.judge.look(images), self.limits.broken(images)
        return Seen(found.closed, broken if found.none is None else found.none | broken)

    def guesses(self, images: Images) -> Guesses:
        """(N, H, W, 3) uint8 -> each answer's probability."""
        return self.judge.guesses(images)

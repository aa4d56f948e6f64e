"""What metrics know of a judge: does this picture show the concept?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from expunge.core.evaluation.judges.weights import Images, Rows

JudgeKind = Literal["classifier", "zero_shot"]
KS = (1, 5)
Scores = np.ndarray[Any, np.dtype[np.floating]]


@dataclass(frozen=True)
class Seen:
    """What a judge saw in N pictures.

    closed: for each k, whether the concept is among the judge's first k guesses, (N,), where it must guess
    (closed set, as in the papers). A k is left out where all guesses would be among them.
    none: whether the picture shows none of what the judge knows, (N,); None where it cannot say so.
    """

    closed: Mapping[int, Rows]
    none: Rows | None = None

    @property
    def shown(self) -> dict[int, Rows]:
        """For each k, whether the concept is a guess and the picture is not none of these, (N,)."""
        shown = {k: hit.copy() for k, hit in self.closed.items()}
        if self.none is not None:
            for hit in shown.values():
                hit[self.none] = False
        return shown


class Guesses(NamedTuple):
    """The answers that a judge chooses from, the probability that it gives each of them, (N, answers), and
    which of them is the concept.
    """

    answers: list[str]
    shares: Scores
    own: int


class ConceptJudge(Protocol):
    """Says of pictures whether they show one concept.

    name: the network that judges; among: how many answers it chooses from; texts: of zero-shot, the answers.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> JudgeKind: ...
    @property
    def among(self) -> int: ...
    @property
    def texts(self) -> list[str]: ...

    def look(self, images: Images) -> Seen:
        """(N, H, W, 3) uint8 -> what is seen."""

    def guesses(self, images: Images) -> Guesses:
        """(N, H, W, 3) uint8 -> each answer's probability."""


def top_k(scores: Scores, wanted: list[int]) -> dict[int, Rows]:
    """For each k, whether one of the wanted columns is among a row's k largest, (N,)."""
    order = np.argsort(-scores, 1, kind="stable")
    return {k: np.asarray(np.isin(order[:, :k], wanted).any(axis=1)) for k in KS if k < scores.shape[1]}


def softmax(scores: Scores) -> Scores:
    """Scores to probabilities, (N, answers)."""
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Scores = grown / grown.sum(axis=1, keepdims=True)
    return shares

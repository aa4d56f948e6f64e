"""What a network found in a picture or a text, by its content: so that none is judged twice."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from expunge.core.evaluation.judges.weights import BATCH, Images
from expunge.core.memory import in_batches

LIMIT = 16384  # rows that are kept; those of the longest ago go first


class Remembered:
    """A network's rows, one for each picture or text that it has seen."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Tensor] = {}

    def of(self, keys: Sequence[bytes], judge: Callable[[list[int]], Tensor]) -> Tensor:
        """(N, D), one row for what each key stands for. `judge(rows)` is asked for those that are new, each
        once, at most BATCH at a time.
        """
        found = {key: self.rows[key] for key in keys if key in self.rows}
        new = {key: i for i, key in enumerate(keys) if key not in found}
        places = list(new.values())
        judged = in_batches(len(places), BATCH, lambda start, end: judge(places[start:end]))
        if judged:
            found |= dict(zip(new, torch.cat(judged), strict=True))
            self.rows |= {key: found[key] for key in new}
        for key in list(self.rows)[: max(0, len(self.rows) - LIMIT)]:
            del self.rows[key]
        return torch.stack([found[key] for key in keys])

    def of_images(self, images: Images, judge: Callable[[Images], Tensor]) -> Tensor:
        """(N, D), of pictures (N, H, W, 3)."""
        return self.of([content(image) for image in images], lambda rows: judge(images[rows]))


def content(image: Images) -> bytes:
    """The address of a picture (H, W, 3)."""
    return hashlib.sha256(f"{image.shape} ".encode() + image.tobytes()).digest()

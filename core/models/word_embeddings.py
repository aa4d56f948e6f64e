"""Words that were learned: embeddings beside the frozen table of a text encoder, and their files in
diffusers' format.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from expunge.core.errors import CoreError
from expunge.core.tensors import serialise

PAIR = ("clip_l", "clip_g")  # of a word's file for two text encoders


@dataclass(frozen=True)
class Word:
    """A learned word: its embeddings (k, D), and the class that the concept judge sees in the images it was
    learned from, if one. `first`: of two text encoders, how many of the D numbers are the first's.
    """

    vectors: Tensor
    shows: str | None = None
    first: int | None = None

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.vectors.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


class WordTable(nn.Module):
    """A frozen token embedding (V, D) and, for ids from V on, the rows of learned words, in order; of their
    numbers those of the columns, where a word is of several encoders.
    """

    def __init__(self, base: nn.Embedding, columns: slice) -> None:
        super().__init__()
        self.base, self.columns, self.learned = base, columns, list[Tensor]()

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D), with a gradient to the learned rows that require one."""
        size = self.base.num_embeddings
        found: Tensor = self.base(ids.clamp_max(size - 1))
        rows = torch.cat(self.learned)[:, self.columns].to(found)
        return torch.where((ids >= size).unsqueeze(-1), rows[(ids - size).clamp_min(0)], found)


def write(path: Path, name: str, word: Word) -> Path:
    """As diffusers' `load_textual_inversion` reads it: one tensor under the word's name. Of two text encoders
    as ComfyUI and A1111 read it: clip_l and clip_g, which diffusers is given one by one.

    The same word gives the same bytes.
    """
    vectors, said = word.vectors.float(), {"format": "pt", "expunge.shows": word.shows or ""}
    tensors = {name: vectors}
    if word.first is not None:
        parts = vectors.tensor_split([word.first], 1)
        tensors = {part: each.contiguous() for part, each in zip(PAIR, parts, strict=True)}
        said["expunge.word"] = name
    path.write_bytes(serialise(tensors, said))
    return path


def read(path: Path) -> tuple[str, Word]:
    """A word and its name; CoreError where the file holds no learned word."""
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise CoreError("bad_word", f"'{path.name}' is no safetensors file ({e})", field="words") from e
    first, named = None, metadata.get("expunge.word")
    if named and set(found) == set(PAIR) and all(t.dim() == 2 for t in found.values()):
        first = found[PAIR[0]].shape[1]
        if found[PAIR[1]].shape[0] == found[PAIR[0]].shape[0]:
            found = {named: torch.cat([found[part] for part in PAIR], 1)}
    if len(found) != 1:
        raise CoreError(
            "bad_word", f"'{path.name}' holds {len(found)} tensors, not one word's", field="words"
        )
    ((name, vectors),) = found.items()
    if (
        vectors.dim() != 2
        or 0 in vectors.shape
        or not vectors.is_floating_point()
        or not bool(vectors.isfinite().all())
    ):
        raise CoreError(
            "bad_word",
            f"'{path.name}' holds {vectors.dtype} {tuple(vectors.shape)}, not a word's embeddings",
            field="words",
        )
    return name, Word(vectors, metadata.get("expunge.shows") or None, first)

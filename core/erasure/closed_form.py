"""What the closed-form edits of cross-attention share: the solution's factors, and their delivery as an exact
LoRA.

W' = (lambda W + s_e sum W g e^T + s_p sum W p p^T) M^-1,  M = lambda I + s_e sum e e^T + s_p sum p p^T
so  W' - W = s_e sum W (g - e) e^T M^-1:  up = W (g - e), down = s_e e^T M^-1, of rank at most the number of
columns e.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from expunge.core.models import Denoiser
from expunge.core.progress import Callback

CHUNK = 64  # prompts encoded at a time


def moved(e: Tensor, g: Tensor) -> Tensor:
    """Which of the columns (n, D) the edit moves at all: a shared prefix stays where it is."""
    return (g - e).abs().amax(1) > 1e-9


def factors(
    e: Tensor, g: Tensor, p: Tensor, ridge: float, erase_scale: float = 1.0, preserve_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(D, n) difference columns g - e and (n, D) rows s_e e^T M^-1, in float64. e, g: (n, D) erased and
    target columns; p: (m, D) preserved.

    Columns that do not move weigh in M but need no factor.
    """
    e, g, p = e.double(), g.double(), p.double()
    m = (
        ridge * torch.eye(e.shape[1], dtype=e.dtype, device=e.device)
        + erase_scale * e.T @ e
        + preserve_scale * p.T @ p
    )
    rows = moved(e, g)
    rows[0] |= not rows.any()  # an edit that moves nothing is still an adapter
    return folded((g - e)[rows].T, erase_scale * torch.linalg.solve(m, e[rows].T).T)


def folded(difference: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """(D, n) and (n, D), of at most D columns: the product is the same."""
    size = len(difference)
    if len(down) <= size:
        return difference, down
    return difference @ down, torch.eye(size, dtype=down.dtype, device=down.device)


def columns(model: Denoiser, prompts: list[str], tokens: str) -> Tensor:
    """The token columns that are edited: all of them, or each prompt's last before EOS; (n, D)."""
    states = model.encode(prompts).states
    if tokens == "all":
        return states.flatten(0, 1)
    lengths = [len(ids) for ids in model.text.token_ids(prompts)]
    return torch.stack([s[max(0, n - 2)] for s, n in zip(states, lengths, strict=True)])


def condensed(model: Denoiser, prompts: list[str], tokens: str) -> Tensor:
    """The prompts' columns, float64; where they are more than D, D others with the same sum of p p^T, which
    is all that a solve reads of them.

    A vocabulary's are some 300,000 columns of 768 numbers: they are read CHUNK prompts at a time, once, and
    none is kept.
    """
    parts = (columns(model, prompts[i : i + CHUNK], tokens).double() for i in range(0, len(prompts), CHUNK))
    kept = next(parts)
    for part in parts:
        kept = torch.cat([kept, part])
        if len(kept) > kept.shape[1]:
            kept = square_root(kept.T @ kept)
    return kept if len(kept) <= kept.shape[1] else square_root(kept.T @ kept)


def square_root(gram: Tensor) -> Tensor:
    """R (D, D) with R^T R = gram, which has no negative eigenvalues but by rounding."""
    values, vectors = torch.linalg.eigh(gram)
    root: Tensor = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return root


def edited_layers(model: Denoiser) -> list[str]:
    """The layers that read the text: cross-attention's keys and values."""
    return model.layers("xattn_strict")


def wear(model: Denoiser, layers: Mapping[str, tuple[Tensor, Tensor]], callback: Callback) -> int:
    """Put each layer's exact up (out, r) and down (r, in) on the model as one adapter; the rank r."""

    def told(written: int) -> None:
        callback({"phase": "erase", "step": written, "total": len(layers)})

    return model.add_exact(layers, told)

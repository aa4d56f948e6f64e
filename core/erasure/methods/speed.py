"""SPEED (Li et al., ICLR 2026), in closed form and delivered as its exact LoRA.

Of the columns t to be erased, a that they become and r to be retained, all scaled to the squared norm that
the authors' numbers are for:

  S_t = mean t t^T, S_a = mean a t^T; P projects onto the directions in which the r have hardly any square;
  M = (S_t P + s I)^-1;  W' - W = W (S_a - S_t) P (I - M K (K^T P M K + lambda I)^-1 K^T P) M

so that W' r = W r where P r = 0, and W' k = W k for the columns k of K (lambda 0): the start of the text and
the empty prompt. Per layer, only those r count that a plain edit moves more than the mean, and variants of
them along the direction that the layer reads least.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.erasure.closed_form import columns, edited_layers, folded, moved, wear
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.methods.uce import prompts_of, seen_names
from expunge.core.errors import CoreError
from expunge.core.models import Denoiser
from expunge.core.progress import Callback
from expunge.core.sampling import seeded
from expunge.core.specs import EraseSpec, SpeedSpec

NORM = 750.0  # squared, of CLIP-L's states
DIRECTIONS = 3  # of the empty prompt
Normal = Callable[[int, int], Tensor]
"""Draws standard normal numbers of a shape."""


def edit(
    model: Denoiser,
    request: EraseSpec,
    spec: SpeedSpec,
    callback: Callback,
    _checkpoints: Checkpoints | None = None,
) -> Delta:
    """Edit every attn2.to_v (and to_k where asked) at once; seconds on a CPU."""
    begun, evaluations = time.monotonic(), model.evaluations
    sources, targets, retained = prompts_of(model, request, spec)
    message = f"{len(sources)} prompts to edit, {len(retained)} to retain"
    callback({"phase": "encode", "step": 0, "total": 1, "message": message})

    # Columns, in the authors' units
    t, a = (columns(model, prompts, spec.tokens).double() for prompts in (sources, targets))
    unit = (NORM / t.square().sum(1).mean()).sqrt()
    rows = moved(t, a)
    rows[0] |= not rows.any()  # an edit that moves nothing is still an adapter
    t, a = t[rows] * unit, a[rows] * unit
    r = columns(model, retained, spec.tokens).double() * unit if retained else t[:0]
    invariant = invariants(model) * unit

    # Each layer has its own null space
    g = seeded(request.seed, *b"speed")
    layers, free = dict[str, tuple[Tensor, Tensor]](), list[int]()
    for name in edited_layers(model):
        if not (spec.with_to_k or name.endswith("to_v")):
            continue
        weight = model.weight(name).double()
        kept = second_moment(
            weight, t, a, r, spec, lambda *shape: torch.randn(*shape, generator=g).double().to(r.device)
        )
        projection, dimensions = null_space(kept, spec.null_threshold)
        if not dimensions:
            raise CoreError(
                "nothing_free",
                f"the retained concepts leave no direction of the text space in which '{name}' may change;"
                " raise method.null_threshold, or retain less: method.filter true, or"
                " method.hold_vocabulary false",
                field="method.null_threshold",
            )
        difference, down = folded((a - t).T / unit, unit * solved(t, projection, invariant, spec))
        layers[name] = weight @ difference, down
        free.append(dimensions)
    rank = wear(model, layers, callback)
    return Delta.of(
        model,
        columns=len(t),
        rank=rank,
        free_directions=min(free),
        residual=0.0,
        held=seen_names(model, request, spec),
        unet_evaluations=model.evaluations - evaluations,
        seconds=time.monotonic() - begun,
    )


def invariants(model: Denoiser) -> Tensor:
    """The state at the start of every text, and the principal directions of the empty prompt's others, (K,
    D), float64.
    """
    states = model.encode([""]).states[0].double()
    _, sizes, directions = torch.linalg.svd(states[1:], full_matrices=False)
    return torch.cat([states[:1], (sizes[:, None] * directions)[:DIRECTIONS]])


def second_moment(weight: Tensor, t: Tensor, a: Tensor, r: Tensor, spec: SpeedSpec, normal: Normal) -> Tensor:
    """mean r r^T, (D, D), of the retained columns r (m, D), and variants of them, that a plain edit of the
    layer, weight (out, D), moves more than the mean.
    """
    if not len(r):
        return torch.zeros(t.shape[1], t.shape[1], dtype=t.dtype, device=t.device)
    eye = torch.eye(t.shape[1], dtype=t.dtype, device=t.device)
    difference = weight @ (a - t).T  # (out, n)
    read = torch.linalg.solve(eye + t.T @ t / len(t), t.T / len(t)).T  # (n, D): the plain edit's other factor
    gram = difference.T @ difference  # (n, n): |difference c|^2 = c^T gram c

    through = r @ read.T  # (m, n)
    moves = (through @ gram * through).sum(1).clamp_min(0).sqrt()
    most = moves > moves.mean()
    if spec.filter and bool(most.any()):
        r, through = r[most], through[most]
    square, count = r.T @ r, float(len(r))
    if spec.augmentations:
        least = torch.linalg.svd(weight).Vh[-1]
        z = normal(len(r), spec.augmentations)
        kept = torch.ones_like(z)
        if spec.filter:
            kept = moved_most(through, read @ least, gram, z)
        square = square + square_of_variants(r, least, z, kept)
        count += float(kept.sum())
    found: Tensor = square / count
    return found


def moved_most(through: Tensor, along: Tensor, gram: Tensor, z: Tensor) -> Tensor:
    """Which variants r + z v are moved more than their mean, (m, A) of 0 and 1; through: the r as the edit
    reads them, (m, n); along: v as it does, (n,).
    """
    own = (through @ gram * through).sum(1, keepdim=True)
    moves = own + 2 * z * (through @ gram @ along)[:, None] + z.square() * (along @ gram @ along)
    moves = moves.clamp_min(0).sqrt()
    return (moves > moves.mean()).to(z.dtype)


def square_of_variants(r: Tensor, v: Tensor, z: Tensor, kept: Tensor) -> Tensor:
    """The sum of (r + z v) (r + z v)^T over the variants that are kept, (D, D), none of which is stored."""
    mixed = torch.outer(r.T @ (z * kept).sum(1), v)
    own = (kept.sum(1, keepdim=True) * r).T @ r
    return own + mixed + mixed.T + (z.square() * kept).sum() * torch.outer(v, v)


def null_space(moment: Tensor, threshold: float) -> tuple[Tensor, int]:
    """The projection (D, D) onto the directions whose eigenvalue is below the threshold, and how many these
    are.
    """
    values, vectors = torch.linalg.eigh(moment)
    free = vectors[:, values < threshold]
    return free @ free.T, free.shape[1]


def solved(t: Tensor, projection: Tensor, invariant: Tensor, spec: SpeedSpec) -> Tensor:
    """Rows (n, D) whose product with the difference columns is the edit: mean t^T P (I - …) M."""
    eye = torch.eye(t.shape[1], dtype=t.dtype, device=t.device)
    m = torch.linalg.inv(t.T @ t / len(t) @ projection + spec.retain_scale * eye)
    k = invariant.T  # (D, K)
    inner = k.T @ projection @ m @ k
    inner = inner + spec.invariant_ridge * torch.eye(len(inner), dtype=t.dtype, device=t.device)
    held = m @ k @ torch.linalg.pinv(inner, hermitian=False) @ k.T @ projection
    rows: Tensor = t @ projection @ (eye - held) @ m / len(t)
    return rows

"""TIME, Editing Implicit Assumptions in Text-to-Image Diffusion Models (Orgad et al., ICCV 2023), Eq. 3/5, in
closed form.

The authors edit a prompt into one that contains it ("a dog" -> "a green dog") and align the tokens of the
words both share. To erase, the concept's words are replaced: its tokens become the target's, one by one, the
last repeated; every token after them is aligned with its like. Without a target the words become the end of
the text. This alignment is ours.
"""

from time import monotonic
from typing import Any

import torch
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.concepts import names_of, resolve_target
from expunge.core.erasure.closed_form import edited_layers, factors, wear
from expunge.core.erasure.delta import Delta
from expunge.core.models import Denoiser
from expunge.core.models.vocabulary import article
from expunge.core.progress import Callback
from expunge.core.specs import EraseSpec, TimeSpec

TEMPLATES = ("a photo of a {}", "an image of a {}", "a picture of a {}")  # the authors' augmentations


def alignment(source: list[int], target: list[int], length: int) -> list[int]:
    """For each of `length` source positions, the target's position it becomes; token ids with BOS and EOS,
    not padded.
    """
    start = next(
        (i for i, (a, b) in enumerate(zip(source, target, strict=False)) if a != b),
        min(len(source), len(target)) - 1,
    )
    tail = 1  # EOS, and whatever follows the words that differ
    while tail < min(len(source), len(target)) - start and source[-1 - tail] == target[-1 - tail]:
        tail += 1
    ends, old, new = len(source) - tail, len(source), len(target)
    words = max(start, new - tail - 1) if new - tail > start else new - tail
    middle = [min(i, words) for i in range(start, ends)]
    after = [min(i - old + new, length - 1) for i in range(ends, length)]
    return [*range(start), *middle, *after]


def pairs(model: Denoiser, source: str, target: str) -> tuple[Tensor, Tensor]:
    """A prompt's token states and those of the tokens they become, (L, D) each."""
    old, new = model.text.token_ids([source, target])
    e, g = model.encode([source, target]).states
    return e, g[torch.tensor(alignment(old, new, len(e)), device=g.device)]


def replacements(model: Denoiser, name: str, target: str) -> list[tuple[str, str]]:
    """A name's prompts, each with the prompt that it becomes."""
    vocabulary = model.vocabulary
    if vocabulary.style(name) is not None:
        return list(zip(vocabulary.prompts(name), vocabulary.replaced(name, target), strict=True))
    old, new = ([article(t.format(word)).strip() for t in TEMPLATES] for word in (name, target))
    return list(zip(old, new, strict=True))


def edit(
    model: Denoiser,
    request: EraseSpec,
    spec: TimeSpec,
    callback: Callback,
    _checkpoints: Checkpoints | None = None,
) -> Delta:
    """Edit every attn2.to_v (and to_k where asked) at once."""
    begun, evaluations = monotonic(), model.evaluations

    # Every prompt of every name, and what it becomes.
    columns: list[tuple[Tensor, Tensor]] = []
    targets = list[str]()
    for concept in request.concepts:
        target = resolve_target(model, concept, request.concepts, spec.guide)
        targets.append(target)
        for name in names_of(concept):
            columns += [pairs(model, *prompts) for prompts in replacements(model, name, target)]
    callback({"phase": "encode", "step": 0, "total": 1, "message": f"{len(columns)} prompts to edit"})
    e, g = torch.cat([old for old, _ in columns]), torch.cat([new for _, new in columns])

    # One solution for all layers that are edited.
    difference, down = factors(e, g, e[:0], spec.ridge)
    names = [n for n in edited_layers(model) if spec.with_to_k or n.endswith("to_v")]
    layers = {n: (model.weight(n).double() @ difference, down) for n in names}
    info: dict[str, Any] = {
        "columns": int(e.shape[0]),
        "rank": wear(model, layers, callback),
        "residual": 0.0,
    }
    info["held"] = list(dict.fromkeys(name for name in targets if name))
    return Delta.of(
        model, **info, unet_evaluations=model.evaluations - evaluations, seconds=monotonic() - begun
    )

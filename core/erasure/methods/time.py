"""TIME, Editing Implicit Assumptions in Text-to-Image Diffusion Models (Orgad et al., ICCV 2023), Eq. 3/5, in
closed form.

The authors edit a prompt into one that contains it ("a dog" -> "a green dog") and align the tokens of the
words both share. To erase, the concept's words are replaced: its tokens become the target's, one by one, the
last repeated; every token after them is aligned with its like. Without a target the words become the end of
the text. This alignment is ours.
"""

from time import monotonic

import torch
from torch import Tensor

from expunge.core.concepts import anchor, forbidden
from expunge.core.erasure.closed_form import factors, wear
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.layers import target_modules
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
    ids = model.pipe.tokenizer(
        model.spelled([source, target]), truncation=True, max_length=model.pipe.tokenizer.model_max_length
    ).input_ids
    e, g = model.encode([source, target])
    return e, g[torch.tensor(alignment(ids[0], ids[1], len(e)), device=g.device)]


def edit(model: Denoiser, request: EraseSpec, spec: TimeSpec, callback: Callback) -> Delta:
    """Edit every attn2.to_v (and to_k where asked) at once."""
    begun, evaluations = monotonic(), model.evaluations
    found: list[tuple[Tensor, Tensor]] = []
    for concept in request.concepts:
        guide = anchor(model, concept, request.concepts, spec.guide)
        for word in forbidden(concept):
            if model.vocabulary.style(word) is None:
                prompts, goals = ([article(t.format(w)).strip() for t in TEMPLATES] for w in (word, guide))
            else:
                prompts, goals = model.vocabulary.prompts(word), model.vocabulary.replaced(word, guide)
            found += [pairs(model, p, goal) for p, goal in zip(prompts, goals, strict=True)]
    callback({"phase": "encode", "step": 0, "total": 1, "message": f"{len(found)} prompts to edit"})
    e, g = (torch.cat([pair[k] for pair in found]) for k in (0, 1))
    difference, down = factors(e, g, e[:0], spec.ridge)
    names = [n for n in target_modules(model.unet, "xattn_strict") if spec.with_to_k or n.endswith("to_v")]
    layers = {n: (model.unet.get_submodule(n).weight.detach().double() @ difference, down) for n in names}
    info = {"columns": int(e.shape[0]), "rank": wear(model, layers, callback), "residual": 0.0}
    return Delta.of(
        model, **info, unet_evaluations=model.evaluations - evaluations, seconds=monotonic() - begun
    )

"""What attacks on the prompt share: the tokens that they may use, and how those read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.core.attacks.scene import Attempt, Images, Scene
from expunge.core.models import Denoiser
from expunge.core.specs import Concept
from expunge.core.specs.inflections import plain


def allowed_ids(model: Denoiser, concept: Concept) -> Tensor:
    """Token ids that an attack may use, (V',): words and parts of words, without special tokens, learned
    words, and whatever spells the concept or a synonym of it.
    """
    names = (concept.name, *concept.synonyms)
    words = [model.vocabulary.style(name) or name for name in names]  # not "in" and "style"
    banned = {plain(part) for word in words for part in word.split()}
    special = set(model.text.special_ids())
    ids = []
    for spelling, index in model.text.vocabulary_ids().items():
        letters = plain(spelling.replace("</w>", ""))
        spells = len(letters) > 2 and any(letters in word or word in letters for word in banned)
        if letters and not spells and index not in special:
            ids.append(index)
    return torch.tensor(sorted(ids))


def read_tokens(model: Denoiser, ids: Sequence[int]) -> str:
    """Token ids as a reader sees them."""
    names = {index: token for token, index in model.text.vocabulary_ids().items()}
    return "".join(names.get(i, "?").replace("</w>", " ") for i in ids).strip()


def vectors_of(scene: Scene, ids: Tensor) -> Tensor:
    """The embeddings (k, D) of tokens (k,)."""
    return scene.model.text.token_embeddings()[ids].cpu()


def drawn(scene: Scene, ids: Tensor, count: int) -> Images:
    """`count` pictures of a prompt that is these tokens (k,) alone."""
    word = scene.say(vectors_of(scene, ids))
    return scene.draw_judged(count, lambda _: word)


def draw_tokens(scene: Scene, ids: Tensor, count: int) -> Attempt:
    """An attempt that is judged on these tokens (k,) alone."""
    found = read_tokens(scene.model, ids.tolist())
    return Attempt(drawn(scene, ids, count), found, vectors=vectors_of(scene, ids))

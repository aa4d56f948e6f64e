"""RSR-k: with the recovery key, does the classifier find the hidden concept among its k first guesses? (KPOP;
as PSR-k, on the hidden concept.)

It is compared with a wrong key: of the same size and as far from c_e as the true one, in a random direction.
A wrong key should not bring the concept back.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from expunge.core.concepts.embeddings import name_states
from expunge.core.evaluation.pictures import Picture
from expunge.core.models import Denoiser
from expunge.core.sampling import seeded

CONVENTION = (
    "rsr-k: the share of a hidden concept's pictures, drawn with its recovery key, whose label is in the"
    " classifier's top k; the prompts and seeds are those of esr-k. …_wrong_key: drawn with a random key of"
    " the same size and at the same distance from c_e, a different one for each picture."
)


def wrong_key(model: Denoiser, name: str, key: Tensor, index: int) -> Tensor:
    """A key (m, D) at the true key's distance from c_e, in a random direction."""
    centre = name_states(model, name, len(key)).cpu()
    away = torch.randn(key.shape, generator=seeded(index, *name.encode()))
    wrong: Tensor = centre + away * ((key - centre).norm() / away.norm())
    return wrong


def both(model: Denoiser, pictures: Sequence[Picture], keys: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys to draw each picture with, (N, m, D): the true one under "", a wrong one under "_wrong_key";
    empty without keys.
    """
    if not pictures:
        return {}
    return {
        "": torch.stack([keys[p.concept] for p in pictures]),
        "_wrong_key": torch.stack(
            [wrong_key(model, p.concept, keys[p.concept], i) for i, p in enumerate(pictures)]
        ),
    }

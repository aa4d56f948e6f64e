"""RSR-k: with the recovery key, does the classifier find the hidden concept among its k first guesses? (KPOP;
as PSR-k, on the hidden concept.)

It is compared with a wrong key: of the same size and as far from c_e as the true one, in a random direction.
A wrong key should not bring the concept back.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from expunge.core.concepts.embeddings import name_states
from expunge.core.evaluation.evidence import Evidence, Rows
from expunge.core.evaluation.judges import Images, Seen
from expunge.core.evaluation.metrics import success_rates
from expunge.core.evaluation.pictures import Picture
from expunge.core.models import Denoiser
from expunge.core.sampling import seeded

CONVENTIONS = [
    (
        "rsr-k: the share of a hidden concept's pictures, drawn with its recovery key, whose label is in the"
        " judge's top k, and which are not 'none of these'; the prompts and seeds are those of esr-k."
        " …_wrong_key: drawn with a random key of the same size and at the same distance from c_e, one for"
        " each picture, by the guesses alone: 'none of these' is not hidden. rsr-k_open_wrong_key: where it"
        " is."
    )
]


def wrong_key(model: Denoiser, name: str, key: Tensor, index: int) -> Tensor:
    """A key (m, D) at the true key's distance from c_e, in a random direction."""
    centre = name_states(model, name, len(key)).cpu()
    away = torch.randn(key.shape, generator=seeded(index, *name.encode()))
    wrong: Tensor = centre + away * ((key - centre).norm() / away.norm())
    return wrong


def both(
    model: Denoiser, pictures: Sequence[Picture], keys: Mapping[str, Tensor], start: int = 0
) -> dict[str, Tensor]:
    """The keys to draw each picture with, (N, m, D): the true one under "", a wrong one under "_wrong_key";
    empty without keys. start: how many pictures had a wrong key before.
    """
    if not pictures:
        return {}
    return {
        "": torch.stack([keys[p.concept] for p in pictures]),
        "_wrong_key": torch.stack(
            [wrong_key(model, p.concept, keys[p.concept], i) for i, p in enumerate(pictures, start)]
        ),
    }


def measure(seen: Evidence) -> None:
    """RSR-k with the recovery keys, and with wrong ones."""
    for suffix, images in seen.with_key.items():
        measure_rate(seen, images, suffix)


def measure_rate(seen: Evidence, images: Images, suffix: str) -> None:
    """RSR-k of each hidden concept and over all; row i of the images is `seen.hidden[i]`."""
    parts: dict[str, list[success_rates.Part]] = {}
    for concept in seen.erased:
        words = seen.words_of(concept)
        judge = success_rates.judge_for(seen, f"rsr1{suffix}", concept.name, words)
        if judge is None:
            continue
        rows = [i for i, p in enumerate(seen.hidden) if p.concept == concept.name]
        asked = [seen.hidden[i] for i in rows]
        found = judge.look(images[rows])
        for name, hits in rates(found, wrong=bool(suffix)).items():
            seen.sheet.share(f"{name}{suffix}", concept.name, hits, seen.clusters(asked))
            parts.setdefault(f"{name}{suffix}", []).append((hits, asked))
    for name, several in parts.items():
        hits, asked = success_rates.pool(several)
        seen.sheet.share(name, None, hits, seen.clusters(asked))


def rates(found: Seen, *, wrong: bool) -> dict[str, Rows]:
    """RSR-k of one concept's pictures by the stricter rule, and beside it by the other, (N,) bool each. Of a
    wrong key a broken picture does not count as hidden: the guess behind it counts.
    """
    if not wrong:
        return success_rates.rates("rsr", found)
    values = dict[str, Rows]()
    for k, hit in found.closed.items():
        values |= {f"rsr{k}": hit, f"rsr{k}_open": found.shown[k]}
    return values

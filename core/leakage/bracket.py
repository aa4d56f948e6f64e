"""Both ends of the bracket and the test, of one set of prompts."""

from collections.abc import Sequence

from pydantic import BaseModel
from torch import Tensor

from expunge.core import intervals
from expunge.core.leakage.independence import hsic_test
from expunge.core.leakage.lower import read_off
from expunge.core.leakage.paths import Paths, walk
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, ignore


class Nats(BaseModel):
    """A mean over pairs, in nats, with its 95 % interval."""

    value: float
    ci_low: float
    ci_high: float

    @classmethod
    def of(cls, values: Tensor) -> "Nats":
        """The mean of one value for each pair, (N,)."""
        low, high = intervals.of_mean(values.numpy())
        return cls(value=float(values.mean()), ci_low=low, ci_high=high)


class Bracket(BaseModel):
    """What pictures say of C, in nats: I(C; X) lies, as measured, between `lower` and `upper`.

    path_kl: half of the mean of both directions' KL between the paths; not below `upper`, and not bounded by
    log 2. hsic, p_value: the test of whether pictures depend on C at all.
    """

    lower: Nats
    upper: Nats
    path_kl: Nats
    hsic: float
    p_value: float


def measure_bracket(
    model: Denoiser,
    prompts: Sequence[tuple[str, str]],
    *,
    seed: int,
    steps: int,
    guidance: float,
    batch: int = 16,
    callback: Callback = ignore,
) -> Bracket:
    """The bracket of the model as it stands, from pairs of prompts: with the concept, and with something
    else.
    """
    paths = walk(model, prompts, seed=seed, steps=steps, guidance=guidance, batch=batch, callback=callback)
    return bracket_of(paths, seed)


def bracket_of(paths: Paths, seed: int) -> Bracket:
    """The bracket of paths that were walked."""
    concept, other = paths.ends
    hsic, p_value = hsic_test(concept, other, seed)
    return Bracket(
        lower=Nats.of(read_off(concept, other, seed)),
        upper=Nats.of(paths.upper),
        path_kl=Nats.of(paths.path_kl),
        hsic=hsic,
        p_value=p_value,
    )

"""The output-based methods by their specs: what trains an adapter, learns a mask (pruning) or hides
(KPOP).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from expunge.core.erasure.method import Method, Run
from expunge.core.erasure.methods import age, all_but_one, ant, ap, ca, erase_anything, esd, naive, score
from expunge.core.erasure.single_loss import SingleLoss
from expunge.core.specs import (
    AgeSpec,
    AllButOneSpec,
    AntSpec,
    ApSpec,
    CaSpec,
    EraseAnythingSpec,
    EsdSpec,
    FineTuneSpec,
    NaiveSpec,
    ScoreSpec,
)


def method_of(spec: FineTuneSpec) -> Callable[[Run[Any]], Method[Any]]:
    """What makes the method of a spec for a run."""
    match spec:
        case NaiveSpec():
            return partial(SingleLoss, loss=naive.loss)
        case EsdSpec():
            return partial(SingleLoss, loss=esd.loss)
        case CaSpec():
            return ca.Ca
        case AntSpec():
            return ant.Ant
        case AllButOneSpec():
            return partial(SingleLoss, loss=all_but_one.loss)
        case ApSpec():
            return ap.Ap
        case AgeSpec():
            return age.Age
        case ScoreSpec():
            return score.Score
        case EraseAnythingSpec():
            return erase_anything.EraseAnything
    raise TypeError(f"no loss is known of {type(spec).__name__}")

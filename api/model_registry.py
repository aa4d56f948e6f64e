"""The models that jobs may name: which there are, and what is known of each before a job is taken."""

import time
from functools import lru_cache

from expunge.api import suggestions
from expunge.api.problems import invalid
from expunge.api.services import Services
from expunge.core.sources import Checked, check
from expunge.store import workers

LOOKED = 10  # seconds for which a look at a model's files holds
ADDED = (
    "one is added to EXPUNGE_MODELS, an operator's setting, and then named by its id there"
    " (docs/your-own-model.md)"
)


@lru_cache(maxsize=256)
def looked(id_: str, source: str, _: int) -> Checked:
    return check(id_, source)


def found(services: Services, id_: str) -> Checked:
    """What this host sees of a registered model."""
    return looked(id_, services.settings.models[id_], int(time.monotonic() / LOOKED))


def usable(services: Services, id_: str) -> tuple[Checked, bool | None, str | None]:
    """(what this host sees, whether it can be used, why not). None: nobody has seen its files yet.

    Where its files are not here the workers' word counts: one that has it is enough.
    """
    here = found(services, id_)
    if here.seen:
        return here, here.problem is None, here.problem
    with services.reading() as session:
        having, told = workers.model_status(session, id_)
    if having:
        return here, True, None
    return here, (False if told else None), (f"no worker can use it: {told}" if told else None)


def known_model(services: Services, model: str, field: str = "model") -> None:
    """422 where there is no such model, or none that any host can use."""
    names = list(services.settings.models)
    if model not in names:
        shown = model[:100] if model.isprintable() else ascii(model[:100])
        meant = suggestions.ask(suggestions.parameter(model.strip().removeprefix("bundled:"), names))
        raise invalid(
            field, f"there is no model '{shown}' here", f"{meant}models: {', '.join(names)}; {ADDED}"
        )
    _, able, why = usable(services, model)
    if able is False:
        others = " or ".join(f"'{n}'" for n in names if n != model and usable(services, n)[1])
        remedy = f"{f'take {others}, or ' if others else ''}have its files mended (docs/your-own-model.md)"
        raise invalid(field, f"model '{model}' cannot be used: {why}", remedy)

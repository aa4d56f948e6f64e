"""The models that jobs may name, and what is known of each before a job is accepted."""

import time
from functools import lru_cache

from expunge.api import suggestions
from expunge.api.problems import invalid
from expunge.api.services import Services
from expunge.core.layout_checks import family_of
from expunge.core.sources import Checked, check
from expunge.core.specs import METHODS
from expunge.store import workers

MAX_AGE = 10  # seconds for which a check of a model's files is used
HOW_TO_ADD = (
    "the operator can add one to EXPUNGE_MODELS, and it is then named by its id there"
    " (docs/your-own-model.md)"
)


@lru_cache(maxsize=256)
def cached_check(id_: str, source: str, _: int) -> Checked:
    return check(id_, source)


def check_files(services: Services, id_: str) -> Checked:
    """What this host sees of a registered model's files."""
    return cached_check(id_, services.settings.models[id_], int(time.monotonic() / MAX_AGE))


def availability(services: Services, id_: str) -> tuple[Checked, bool | None, str | None]:
    """(what this host sees, whether the model can be used, why not).

    Where the files are not on this host, the workers' reports decide: one that has the model is enough. None
    means that no host has seen the files yet.
    """
    here = check_files(services, id_)
    if here.seen:
        return here, here.problem is None, here.problem
    with services.reading() as session:
        usable_there, problem_there = workers.model_status(session, id_)
    if usable_there:
        return here, True, None
    if problem_there:
        return here, False, f"no worker can use it: {problem_there}"
    return here, None, None


def methods_for(here: Checked) -> list[str] | None:
    """The methods that work on a model; None where this host cannot tell."""
    if here.architecture is None:
        return None
    family = family_of(here.architecture)
    return [name for name, method in METHODS.items() if method.refusal(family) is None]


def check_method(services: Services, model: str, method: str) -> None:
    """Check that a method works on a model that jobs may name; where its files are not on this host, the
    worker does.

    Raises: Problem `invalid_request`.
    """
    here = check_files(services, model)
    if here.architecture is None:
        return
    why = METHODS[method].refusal(family_of(here.architecture))
    if why is not None:
        remedy = f"use one of {', '.join(methods_for(here) or [])}"
        raise invalid("method", f"'{method}' {why}, which '{model}' is", remedy)


def check_model(services: Services, model: str, field: str = "model") -> None:
    """Check that jobs may name this model.

    Raises: Problem `invalid_request` where there is no such model, or no host can use it.
    """
    names = list(services.settings.models)
    if model not in names:
        shown = model[:100] if model.isprintable() else ascii(model[:100])
        meant = suggestions.closest_parameter(model.strip().removeprefix("bundled:"), names)
        raise invalid(
            field,
            f"there is no model '{shown}' here",
            f"{suggestions.did_you_mean(meant)}models: {', '.join(names)}; {HOW_TO_ADD}",
        )
    _, usable, problem = availability(services, model)
    if usable is False:
        others = " or ".join(f"'{n}'" for n in names if n != model and availability(services, n)[1])
        remedy = "have its files repaired (docs/your-own-model.md)"
        if others:
            remedy = f"use {others}, or {remedy}"
        raise invalid(field, f"model '{model}' cannot be used: {problem}", remedy)

"""Unknown query parameters are refused, like unknown fields of a body; so is one that is given twice."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, get_origin

from fastapi import Request

from expunge.api import signed_urls, suggestions
from expunge.api.problems import FieldError, Problem

MAX_ERRORS = 50


def declared_parameters(dependant: Any) -> Iterator[tuple[str, bool]]:
    """(name, whether it may be repeated) of each query parameter of a route and of its dependencies."""
    for field in dependant.query_params:
        yield field.alias, get_origin(field.field_info.annotation) is list
    for inner in dependant.dependencies:
        yield from declared_parameters(inner)


async def refuse_unknown(request: Request) -> None:
    """A dependency of every route.

    Raises: Problem `invalid_request` for a query parameter that the route does not have, or that is given
    more often than it takes.
    """
    given = Counter(name for name, _ in request.query_params.multi_items())
    if not given:
        return
    repeatable = dict(declared_parameters(request.scope["route"].dependant))
    if "sig" in given:  # a signed link: api/signed_urls.py reads its parameters
        repeatable |= dict.fromkeys(signed_urls.PARAMETERS, False)
    errors = []
    for name in given:
        if name not in repeatable:
            shown = name[:100]
            message = f"there is no query parameter '{shown}' here"
            remedy = list_parameters(name, list(repeatable))
            errors.append(FieldError(field=f"query.{shown}", message=message, remedy=remedy))
    for name, times in given.items():
        if times > 1 and not repeatable.get(name, True):
            errors.append(FieldError(field=f"query.{name}", message="is given twice", remedy="give it once"))
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        first = errors[0]
        detail = f"{first.field}: {first.message}: {first.remedy}{more}"
        raise Problem("invalid_request", detail, errors=errors[:MAX_ERRORS])


def list_parameters(name: str, names: list[str]) -> str:
    return suggestions.choices(name, names, "this address takes") if names else "this address takes none"

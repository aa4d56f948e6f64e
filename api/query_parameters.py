"""Query parameters: what a route does not take is refused, as an unknown field of a body is, and so is one
that is given twice.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, get_origin

from fastapi import Request

from expunge.api import signed_urls, suggestions
from expunge.api.problems import FieldError, Problem


def taken(dependant: Any) -> Iterator[tuple[str, bool]]:
    """(name, whether it may be repeated) of each query parameter of a route and of what it depends on."""
    for field in dependant.query_params:
        yield field.alias, get_origin(field.field_info.annotation) is list
    for inner in dependant.dependencies:
        yield from taken(inner)


async def known(request: Request) -> None:
    """A dependency of every route. 422 for a query parameter that it does not take, or takes once and was
    given twice.
    """
    given = Counter(name for name, _ in request.query_params.multi_items())
    if not given:
        return
    several = dict(taken(request.scope["route"].dependant))
    if "sig" in given:  # a link to an artifact: whoever checks the signature reads these
        several |= dict.fromkeys(signed_urls.PARAMETERS, False)
    errors = [
        FieldError(
            field=f"query.{name[:100]}",
            message=f"there is no query parameter '{name[:100]}' here",
            remedy=remedy(name, list(several)),
        )
        for name in given
        if name not in several
    ]
    errors += [
        FieldError(field=f"query.{name}", message="is given twice", remedy="give it once")
        for name, times in given.items()
        if times > 1 and not several.get(name, True)
    ]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        first = errors[0]
        raise Problem(
            "invalid_request", f"{first.field}: {first.message}: {first.remedy}{more}", errors=errors[:50]
        )


def remedy(name: str, names: list[str]) -> str:
    return suggestions.choice(name, names, "this address takes") if names else "this address takes none"

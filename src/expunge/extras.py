"""What `pip install expunge` leaves out, and the error that names the extra which brings it."""

from collections.abc import Iterable
from importlib.util import find_spec


class MissingExtra(ImportError):
    """A part of Expunge needs packages that are not installed; the message says how to install them."""

    def __init__(self, part: str, extra: str, missing: Iterable[str]) -> None:
        super().__init__(
            f"{part} needs: pip install 'expunge[{extra}]' (not installed: {', '.join(missing)})"
        )


def missing(modules: Iterable[str]) -> list[str]:
    """Those of the modules that cannot be imported; none of them is imported."""
    return [module for module in modules if find_spec(module) is None]


def require(part: str, extra: str, *modules: str) -> None:
    """Raises: MissingExtra where one of the modules, which the extra brings, is not installed."""
    if absent := missing(modules):
        raise MissingExtra(part, extra, absent)

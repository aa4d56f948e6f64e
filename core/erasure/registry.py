"""How the implementation of a method is found: by the name in its spec.

A method's module, core/erasure/methods/NAME.py, defines one of two things. METHOD makes a `Method` of a run,
which the loop trains. `edit` changes the model itself and returns what it has changed as a delta.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from expunge.core.checkpoints import Checkpoints
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.method import Method, Run
from expunge.core.errors import CoreError
from expunge.core.models import Denoiser
from expunge.core.progress import Callback
from expunge.core.specs import EraseSpec, MethodSpec, methods

MakeMethod = Callable[[Run[Any]], Method[Any]]
Edit = Callable[[Denoiser, EraseSpec, Any, Callback, Checkpoints | None], Delta]


@dataclass(frozen=True)
class Implementation:
    """What a method runs by: exactly one of the two."""

    method: MakeMethod | None
    edit: Edit | None


ADDED: dict[str, Implementation] = {}


def register(spec: type[MethodSpec], *, method: MakeMethod | None = None, edit: Edit | None = None) -> None:
    """Let this process erase by a method of your own: its spec, and what it trains or edits.

    Registered again, a method replaces its earlier self. Raises: ValueError where the name is a method's of
    the package, or where not exactly one of `method` and `edit` is given.
    """
    if (method is None) == (edit is None):
        raise ValueError("give exactly one of method, which is trained, and edit")
    methods.add(spec)
    ADDED[spec.model_fields["name"].default] = Implementation(method, edit)


def implementation(name: str) -> Implementation:
    """What the method of this name runs by."""
    if name in ADDED:
        return ADDED[name]
    module = import_module(f"expunge.core.erasure.methods.{name}")
    return Implementation(getattr(module, "METHOD", None), getattr(module, "edit", None))


def method_of(spec: MethodSpec) -> MakeMethod:
    """What makes the trained method of a spec for a run. Raises: TypeError where nothing is trained."""
    found = implementation(spec.name).method
    if found is None:
        raise TypeError(f"the method '{spec.name}' trains nothing: its module has no METHOD")
    return found


def check_fits(model: Denoiser, spec: MethodSpec) -> None:
    """Raises: CoreError where the method does not work on the model's architecture."""
    if (why := spec.refusal(model.family)) is not None:
        raise CoreError("method_does_not_fit", f"the method '{spec.name}' {why}", field="method")

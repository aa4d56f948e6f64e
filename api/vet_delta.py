"""Check an uploaded delta (a LoRA or a sparse mask): container, names, shapes, finite values.

The worker checks it once more before loading it, by the same rules (core/delta_format).
"""

from pathlib import Path

from expunge.api.problems import FieldError, Problem
from expunge.core.delta_format import BadDelta
from expunge.core.delta_format.check import check_container, layer_shapes
from expunge.core.delta_format.container import read_container
from expunge.core.errors import CoreError
from expunge.core.sources import folder_of

# Bytes. Parsing takes some twenty times as much memory; a delta has some thousand tensors.
MAX_HEADER = 4 << 20
MAX_FAULTS = 8


def check(path: Path, source: str, model: str) -> None:
    """Check that an upload is a usable delta of the model.

    Raises: Problem `not_safetensors`, `delta_does_not_fit` or `delta_not_finite`.
    """
    try:
        file = read_container(path, MAX_HEADER)
        check_container(file, shapes_of(source), f"model '{model}'")
    except BadDelta as error:
        raise problem_of(error) from error


def shapes_of(source: str) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a model's layers; None where only the workers can read its files."""
    folder = folder_of(source)
    try:
        return None if folder is None else layer_shapes(folder)
    except CoreError:
        return None


def problem_of(error: BadDelta) -> Problem:
    """The problem for a bad delta, with an entry for each wrong part, MAX_FAULTS at most."""
    part = error.part or "body"
    faults = [FieldError(field=part, message=error.why, remedy=error.remedy)]
    faults += [FieldError(field=field, message=why) for field, why in error.others.items()]
    more = f" (and {len(error.others)} more)" if error.others else ""
    detail = f"{part}: {error.why}{more}. {error.remedy}"
    return Problem(error.fault.upload_code, detail, errors=faults[:MAX_FAULTS])

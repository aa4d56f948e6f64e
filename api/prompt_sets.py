"""Prompt sets: an upload checked, and the one that a request names found, with the number of its rows."""

import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from expunge.api.problems import FieldError, Problem, invalid
from expunge.core.specs import EvaluationSpec
from expunge.core.specs.fields import UUID
from expunge.core.specs.prompt_sets import MAX_BYTES, BadPromptSet, media_type_of, parse, summary
from expunge.store import artifacts
from expunge.store.errors import NotFound
from expunge.store.settings import Settings

MEDIA_TYPES = ("text/csv", "application/jsonl")
ALIASES = {
    "application/csv": "text/csv",
    "application/x-ndjson": "application/jsonl",
    "application/jsonlines": "application/jsonl",
    "application/x-jsonlines": "application/jsonl",
}
FIELD = "evaluation.prompts"
UPLOAD_ONE = "upload one with POST /artifacts"


def check(path: Path) -> tuple[str, dict[str, Any]]:
    """Check an upload; returns the media type to store it under, and the number of its rows.

    Raises: Problem `prompt_set_unusable`, with an entry for each bad line, 20 at most.
    """
    data = path.read_bytes()
    try:
        prompts = parse(data)
    except BadPromptSet as error:
        faults = [FieldError(field="body", message=f"line {line}: {why}") for line, why in error.faults]
        raise Problem("prompt_set_unusable", f"The prompt set, {error}.", errors=faults) from error
    return media_type_of(data), summary(prompts)


def count_prompts(
    settings: Settings, session: Session, tenant_id: uuid.UUID, asked: EvaluationSpec, *, to_come: bool
) -> int:
    """The number of rows of the prompt set that an evaluation names; 0 where it names none.

    to_come: the set is yet to be uploaded, so that only its id can be checked.
    Raises: Problem `invalid_request`.
    """
    if asked.prompts is None or to_come:
        return 0
    if not UUID.fullmatch(asked.prompts):
        return count_named(settings, asked.prompts)
    try:
        row = artifacts.get(session, tenant_id, uuid.UUID(asked.prompts), lock=True)
    except NotFound as error:
        raise invalid(FIELD, f"there is no prompt set {asked.prompts}", UPLOAD_ONE) from error
    if row.expired_at is not None:
        raise invalid(FIELD, "names a prompt set that was deleted", UPLOAD_ONE)
    if row.job_id is not None or "prompts" not in row.info:
        raise invalid(FIELD, f"names '{row.name}', which is not an uploaded prompt set", UPLOAD_ONE)
    return int(row.info["prompts"])


def count_named(settings: Settings, name: str) -> int:
    """The number of rows of a set of this service. Raises: Problem `invalid_request`."""
    file = settings.prompt_sets.get(name)
    if file is None:
        known = ", ".join(settings.prompt_sets) or "none"
        raise invalid(
            FIELD,
            f"there is no prompt set '{name}' here: prompt sets: {known}",
            f"{UPLOAD_ONE}; the operator can add it to EXPUNGE_PROMPT_SETS",
        )
    try:
        stat = Path(file).stat()
        return count_rows(file, stat.st_mtime_ns, stat.st_size)
    except (OSError, BadPromptSet) as error:
        why = str(error) if isinstance(error, BadPromptSet) else "its file cannot be read"
        raise invalid(
            FIELD, f"the prompt set '{name}' cannot be used ({why})", "tell the operator"
        ) from error


@lru_cache(maxsize=32)
def count_rows(file: str, _mtime_ns: int, size: int) -> int:
    """The number of rows of a file, read anew when it has changed. Raises: BadPromptSet, OSError."""
    if size > MAX_BYTES:
        raise BadPromptSet([(1, f"the file has {size:,} bytes, more than {MAX_BYTES:,}")])
    return len(parse(Path(file).read_bytes()))

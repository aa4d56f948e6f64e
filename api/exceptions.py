"""Which problem an exception becomes: the store's errors, an unreachable database, anything unforeseen."""

import structlog
from obstore.exceptions import BaseError as BlobError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError as PoolTimeout

from expunge.api.middleware.rate_limit import rate_limit_fields
from expunge.api.problems import Problem
from expunge.store.errors import (
    CorruptBlob,
    ForeignStore,
    KeyInFlight,
    KeyReused,
    NotFinished,
    NotFound,
    QuotaExceeded,
    StoreError,
    WrongState,
)

log = structlog.get_logger("api")


def to_problem(error: Exception) -> Problem:
    """The problem that an exception is answered with.

    Anything unforeseen is a 500; its cause is only in the log, never in the answer.
    """
    if isinstance(error, Problem):
        return error
    found = unavailable_problem(error)
    if found is None and isinstance(error, StoreError):
        found = store_problem(error)
    if found is None:
        log.exception("request_failed", error=type(error).__name__)
        return Problem(
            "internal_error",
            "The server failed. The operator finds the cause in the log, under this request_id.",
        )
    if found.kind.status >= 500:
        log.warning(found.kind.code, error=type(error).__name__)
    return found


def unavailable_problem(error: Exception) -> Problem | None:
    """A 503 where the database or the artifact store cannot be used at the moment; else None."""
    if isinstance(error, ForeignStore):
        log.error("foreign_store", error=str(error))
        return Problem(
            "unavailable",
            "The artifact store belongs to another deployment. Nothing was changed.",
            headers={"Retry-After": "60"},
        )
    if isinstance(error, BlobError):
        return Problem(
            "unavailable",
            "The artifact store does not answer. Nothing was changed.",
            headers={"Retry-After": "5"},
        )
    disconnected = isinstance(error, DBAPIError) and error.connection_invalidated
    if disconnected or isinstance(error, (OperationalError, InterfaceError, PoolTimeout)):
        return Problem(
            "unavailable", "The database does not answer. Nothing was changed.", headers={"Retry-After": "5"}
        )
    return None


def store_problem(error: StoreError) -> Problem | None:
    """The problem for an error of the store; None for one that no route expects."""
    match error:
        case NotFound():
            return Problem(
                "not_found",
                "There is no such resource: check the id. You cannot see resources of other tenants.",
            )
        case KeyReused():
            return Problem("idempotency_mismatch")
        case KeyInFlight():
            return Problem("idempotency_in_flight", headers={"Retry-After": "1"})
        case NotFinished() | WrongState():
            return Problem("wrong_state", f"{error}.")
        case QuotaExceeded():
            return Problem("quota_exceeded", f"{error}.", headers=quota_headers(error))
        case CorruptBlob():
            return Problem("artifact_corrupt")
    return None


def quota_headers(error: QuotaExceeded) -> dict[str, str]:
    """The headers of a 429 for a quota: Retry-After and RateLimit."""
    fields = rate_limit_fields(error.quota, error.limit, error.window, left=0, reset=error.wait)
    return {"Retry-After": str(error.wait), **fields}

"""Idempotency-Key: a repeated request gets the first answer (draft-ietf-httpapi-idempotency-key-header)."""

import hashlib
import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from expunge.store.errors import KeyInFlight, KeyReused
from expunge.store.models import Idempotency

LIFETIME = timedelta(days=1)


def begin(
    session: Session, tenant_id: uuid.UUID, key: str, request_hash: str, lifetime: timedelta = LIFETIME
) -> dict[str, Any] | None:
    """Claim a new key, by writing its row: None. For a known key, the answer that `record` kept.

    The advisory lock is held to the end of the transaction, so a second request never waits for the first: it
    is told at once.

    Raises: KeyReused where the first request had another hash, KeyInFlight while it is being answered.
    """
    lock = int.from_bytes(hashlib.sha256(f"{tenant_id}\n{key}".encode()).digest()[:8], "big", signed=True)
    if not session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise KeyInFlight(
            "a request with this Idempotency-Key is still being answered: repeat it in a second"
        )
    mine = (Idempotency.tenant_id == tenant_id, Idempotency.key == key)
    session.execute(delete(Idempotency).where(*mine, Idempotency.expires_at < func.now()))
    row = session.scalar(select(Idempotency).where(*mine))
    if row is None:
        session.add(
            Idempotency(
                tenant_id=tenant_id, key=key, request_hash=request_hash, expires_at=func.now() + lifetime
            )
        )
        session.flush()
        return None
    if row.request_hash != request_hash:
        raise KeyReused("this Idempotency-Key was used with another request: use a new key")
    return row.response or {}


def record(
    session: Session,
    tenant_id: uuid.UUID,
    key: str,
    *,
    response: dict[str, Any],
    job_id: uuid.UUID | None = None,
) -> None:
    """Keep the answer (status, headers, body) to a request, in the transaction of `begin`.

    `job_id`: the job that it made; the answer is deleted with it.
    """
    mine = (Idempotency.tenant_id == tenant_id, Idempotency.key == key)
    session.execute(update(Idempotency).where(*mine).values(response=response, job_id=job_id))


def delete_expired(session: Session) -> int:
    """Delete the keys that have expired; returns how many."""
    gone = session.execute(
        delete(Idempotency).where(Idempotency.expires_at < func.now()).returning(Idempotency.key)
    )
    return len(gone.all())

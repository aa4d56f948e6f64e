"""Idempotency-Key: the first answer is given again (IETF draft-ietf-httpapi-idempotency-key-header)."""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from expunge.store.errors import KeyInFlight, KeyReused
from expunge.store.models import Idempotency

LIFETIME = timedelta(days=1)


@dataclass(frozen=True)
class Recorded:
    """What the first request with this key led to."""

    job_id: uuid.UUID | None
    response: dict[str, Any] | None


def begin(
    session: Session, tenant_id: uuid.UUID, key: str, request_hash: str, lifetime: timedelta = LIFETIME
) -> Recorded | None:
    """None for a new key (the row is written); the first answer for a known one; KeyReused, KeyInFlight.

    The advisory lock is held to the end of the transaction, so a second request never waits for the first: it
    is told at once.
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
        raise KeyReused("this Idempotency-Key was used with another request: take a new key")
    return Recorded(row.job_id, row.response)


def record(
    session: Session,
    tenant_id: uuid.UUID,
    key: str,
    *,
    response: dict[str, Any] | None = None,
    job_id: uuid.UUID | None = None,
) -> None:
    """Keep the answer (status, headers, body) or the job that the key led to; in the transaction of
    `begin`.
    """
    values = {k: v for k, v in (("response", response), ("job_id", job_id)) if v is not None}
    session.execute(
        update(Idempotency).where(Idempotency.tenant_id == tenant_id, Idempotency.key == key).values(values)
    )


def sweep(session: Session) -> int:
    """Forget the keys that have expired."""
    gone = session.execute(
        delete(Idempotency).where(Idempotency.expires_at < func.now()).returning(Idempotency.key)
    )
    return len(gone.all())

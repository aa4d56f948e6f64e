"""Tenants and API keys.

A key's text is shown once. The database holds its HMAC, under a key derived from EXPUNGE_SECRET.
"""

import argparse
import hashlib
import hmac
import itertools
import secrets
import string
import sys
import uuid
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from expunge.store import audit
from expunge.store.audit import Actor
from expunge.store.errors import NotFound, QuotaExceeded, WrongState
from expunge.store.models import ApiKey, Tenant
from expunge.store.server_secret import derive_key, require_length, secret_id

PREFIX = "ex_live_"
Scope = Literal["jobs:read", "jobs:write", "artifacts:read", "keys:read", "webhooks:write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALPHABET = string.digits + string.ascii_letters
RANDOM, CHECK = 37, 6
SOON = 30  # seconds
LIVE = (ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))


def checksum(body: str) -> str:
    """CRC32 in six base-62 digits: a mistyped key is refused without a query, a leaked one is recognised."""
    number, digits = zlib.crc32(body.encode()), ""
    while len(digits) < CHECK:
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def generate_key() -> str:
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM))
    return body + checksum(body)


def is_well_formed(key: str) -> bool:
    return (
        len(key) == len(PREFIX) + RANDOM + CHECK
        and key.startswith(PREFIX)
        and key.isascii()
        and checksum(key[:-CHECK]) == key[-CHECK:]
    )


def legacy_digest(key: str, secret: str) -> str:
    """What earlier releases look a key up by; kept so that they work on the same database."""
    return hmac.new(require_length(secret).encode(), key.encode(), hashlib.sha256).hexdigest()


def hash_key(key: str, secret: str) -> str:
    """What a key is looked up by: the secret's id, and an HMAC under a key derived from that secret."""
    mac = hmac.new(derive_key(secret, "api keys"), key.encode(), hashlib.sha256)
    return f"{secret_id(secret)}.{mac.hexdigest()}"


def ensure_tenant(session: Session, name: str) -> Tenant:
    """The tenant of this name, created when there is none."""
    tenant = session.scalar(select(Tenant).where(Tenant.name == name))
    if tenant is None:
        tenant = Tenant(name=name)
        session.add(tenant)
        session.flush()
        session.refresh(tenant)
    return tenant


def create(
    session: Session,
    secret: str,
    tenant_id: uuid.UUID,
    *,
    name: str,
    scopes: Sequence[str] = SCOPES,
    expires_in: timedelta | None = None,
    key: str | None = None,
    by: Actor | None = None,
    at_most: int | None = None,
) -> tuple[ApiKey, str]:
    """Create a key; returns its row and its text, which is not kept.

    `key`: register this text instead of a new one. `by` None: the operator at the server.

    Raises: QuotaExceeded when the tenant has `at_most` live keys already.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise ValueError(f"unknown scope '{unknown[0]}': the scopes are {', '.join(SCOPES)}")
    if at_most is not None:
        ensure_room(session, tenant_id, at_most)
    text = key or generate_key()
    row = ApiKey(tenant_id=tenant_id, name=name, hint=text[: len(PREFIX) + 4], scopes=list(scopes))
    row.digest, row.hashed = legacy_digest(text, secret), hash_key(text, secret)
    if expires_in is not None:
        row.expires_at = func.now() + expires_in
    session.add(row)
    session.flush()
    session.refresh(row)
    audit.record(session, tenant_id, by, "key.created", row.id, name=name, scopes=list(scopes))
    return row, text


def ensure_room(session: Session, tenant_id: uuid.UUID, at_most: int) -> None:
    """Check that the tenant may have one more live key, and lock its row, so that no other takes that place.

    Raises: QuotaExceeded.
    """
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True))
    if (session.scalar(select(func.count()).where(ApiKey.tenant_id == tenant_id, *LIVE)) or 0) >= at_most:
        raise QuotaExceeded(
            "max_keys",
            at_most,
            "revoke an API key that nobody uses, with DELETE /keys/{id}",
            wait=SOON,
        )


def authenticate(session: Session, secret: str, key: str, older: Sequence[str] = ()) -> ApiKey | None:
    """The live key of this text, or None; records its use at most once a minute.

    A key that was hashed under an older secret, or by an earlier release, is hashed again under the current
    secret.
    """
    if not is_well_formed(key):
        return None
    secrets_ = (secret, *older)
    either = or_(
        ApiKey.hashed.in_([hash_key(key, each) for each in secrets_]),
        ApiKey.digest.in_([legacy_digest(key, each) for each in secrets_]),
    )
    row = session.scalar(select(ApiKey).where(either, *LIVE))
    if row is not None:
        if row.hashed != hash_key(key, secret):
            row.digest, row.hashed = legacy_digest(key, secret), hash_key(key, secret)
            session.flush()
        stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - timedelta(minutes=1))
        session.execute(
            update(ApiKey).where(ApiKey.id == row.id, stale).values(last_used_at=func.now()),
            execution_options={"synchronize_session": False},
        )
    return row


def count_under_other_secret(session: Session, secret: str) -> int:
    """How many live keys are not hashed under this secret yet."""
    other = or_(ApiKey.hashed.is_(None), ~ApiKey.hashed.startswith(f"{secret_id(secret)}."))
    return session.scalar(select(func.count()).select_from(ApiKey).where(other, *LIVE)) or 0


def get_live(session: Session, key_id: uuid.UUID) -> ApiKey | None:
    """The key with this id, unless it has expired or was revoked."""
    return session.scalar(select(ApiKey).where(ApiKey.id == key_id, *LIVE))


def live_identifiers(session: Session) -> frozenset[str]:
    """Hash, legacy digest and id of every live key, of all tenants."""
    rows = session.execute(select(ApiKey.hashed, ApiKey.digest, ApiKey.id).where(*LIVE))
    return frozenset(str(mark) for mark in itertools.chain(*rows) if mark is not None)


def identifiers_of(key: str, secrets_: Sequence[str]) -> set[str]:
    """The hashes and digests by which a key of this text can be found."""
    return {mark for secret in secrets_ for mark in (hash_key(key, secret), legacy_digest(key, secret))}


def get(session: Session, tenant_id: uuid.UUID, key_id: uuid.UUID, *, lock: bool = False) -> ApiKey:
    """One key.

    Raises: NotFound, for another tenant's key too.
    """
    query = select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id)
    row = session.scalar(query.with_for_update(key_share=True) if lock else query)
    if row is None:
        raise NotFound(f"no key {key_id}")
    return row


def list_keys(
    session: Session,
    tenant_id: uuid.UUID,
    *,
    after: tuple[datetime, uuid.UUID] | None = None,
    limit: int | None = None,
) -> Sequence[ApiKey]:
    """A tenant's keys, newest first, without their texts.

    `after`: (created_at, id) of the last key of the page before.
    """
    query = select(ApiKey).where(ApiKey.tenant_id == tenant_id)
    if after is not None:
        query = query.where(tuple_(ApiKey.created_at, ApiKey.id) < tuple_(*after))
    return session.scalars(query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit)).all()


def rotate(
    session: Session,
    secret: str,
    tenant_id: uuid.UUID,
    key_id: uuid.UUID,
    *,
    overlap: timedelta,
    by: Actor | None = None,
    at_most: int | None = None,
) -> tuple[ApiKey, str]:
    """Create a key of the same name, scopes and expiry; the old one ends after `overlap`.

    Raises: WrongState when the old one has ended; QuotaExceeded, where there is an overlap.
    """
    old = get(session, tenant_id, key_id, lock=True)
    now = session.scalars(select(func.now())).one()
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise WrongState("the key has expired or was revoked: create a new one")
    left = None if old.expires_at is None else old.expires_at - now
    row, text = create(
        session,
        secret,
        tenant_id,
        name=old.name,
        scopes=old.scopes,
        expires_in=left,
        by=by,
        at_most=at_most if overlap else None,
    )
    audit.record(
        session,
        tenant_id,
        by,
        "key.rotated",
        old.id,
        replaced_by=str(row.id),
        overlap_s=int(overlap.total_seconds()),
    )
    if overlap:
        old.expires_at = now + overlap if left is None else now + min(left, overlap)
    else:
        revoke(session, tenant_id, old.id, by=by)
    return row, text


def revoke(session: Session, tenant_id: uuid.UUID, key_id: uuid.UUID, *, by: Actor | None = None) -> ApiKey:
    """End a key at once; revoking twice changes nothing."""
    row = get(session, tenant_id, key_id, lock=True)
    if row.revoked_at is None:
        row.revoked_at = func.now()
        audit.record(session, tenant_id, by, "key.revoked", row.id, name=row.name)
        session.refresh(row)
    return row


def main() -> None:
    """`python -m expunge.store.keys TENANT NAME SCOPE...`: create a key and print its text."""
    from expunge.store import db
    from expunge.store.settings import read

    parser = argparse.ArgumentParser(description="Create an API key and print its text, which is not kept.")
    parser.add_argument("tenant", help="name of the tenant; created when there is none")
    parser.add_argument("name", help="a name that tells keys apart, as in the audit")
    parser.add_argument(
        "scopes",
        nargs="*",
        default=SCOPES,
        metavar="scope",
        help=f"{', '.join(SCOPES)}; all where none is named",
    )
    given, settings = parser.parse_args(), read()
    with db.transaction(settings.database_url.get_secret_value()) as session:
        tenant = ensure_tenant(session, given.tenant)
        try:
            _, text = create(
                session, settings.secret.get_secret_value(), tenant.id, name=given.name, scopes=given.scopes
            )
        except ValueError as error:
            parser.error(str(error))
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()

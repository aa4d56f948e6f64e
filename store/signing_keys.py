"""The keys that sign manifests: all workers sign with the same one.

Its private half is kept here, encrypted, unless EXPUNGE_SIGNING_KEY holds it.
"""

from collections.abc import Sequence

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from expunge.store import encryption
from expunge.store.errors import NotFound
from expunge.store.models import SigningKey

IN_USE = (SigningKey.retired_at.is_(None), SigningKey.revoked_at.is_(None))


def lock(session: Session) -> None:
    """Let nobody else create or change signing keys until the transaction ends."""
    session.execute(text("select pg_advisory_xact_lock(hashtextextended('expunge:signing', 0))"))


def get_private_key(session: Session, secret: str, older: Sequence[str]) -> str | None:
    """The private key (PEM) that signs; None when there is none yet.

    Raises: Unreadable where it was encrypted under none of these secrets.
    """
    query = (
        select(SigningKey.sealed)
        .where(*IN_USE, SigningKey.sealed.is_not(None))
        .order_by(SigningKey.created_at.desc())
        .limit(1)
    )
    sealed = session.scalar(query)
    return None if sealed is None else encryption.unseal(sealed, secret, older, "signing keys")


def register(session: Session, key_id: str, public_key: str) -> None:
    """Publish the public half of a key that EXPUNGE_SIGNING_KEY holds; a known key stays as it is."""
    values = {"id": key_id, "public_key": public_key}
    session.execute(insert(SigningKey).values(values).on_conflict_do_nothing())


def activate(session: Session, key_id: str, public_key: str, private_key: str, secret: str) -> None:
    """Sign with this key from now on, and with no earlier one; what those signed stays valid."""
    session.execute(
        update(SigningKey)
        .where(SigningKey.retired_at.is_(None), SigningKey.id != key_id)
        .values(retired_at=func.now())
    )
    values = {
        "public_key": public_key,
        "sealed": encryption.seal(private_key, secret, "signing keys"),
        "retired_at": None,
    }
    session.execute(
        insert(SigningKey)
        .values(id=key_id, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


def revoke(session: Session, key_id: str) -> None:
    """Withdraw a key: what it signed is no longer trusted.

    Raises: NotFound.
    """
    query = (
        update(SigningKey).where(SigningKey.id == key_id).values(revoked_at=func.now(), retired_at=func.now())
    )
    if session.scalar(query.returning(SigningKey.id)) is None:
        raise NotFound(f"no signing key {key_id}")


def list_keys(session: Session) -> Sequence[SigningKey]:
    """The keys to trust, newest first."""
    return session.scalars(
        select(SigningKey)
        .where(SigningKey.revoked_at.is_(None))
        .order_by(SigningKey.created_at.desc(), SigningKey.id)
    ).all()


def reseal(session: Session, secret: str, older: Sequence[str]) -> None:
    """Encrypt every private key again, under the current secret."""
    for row in session.scalars(select(SigningKey).where(SigningKey.sealed.is_not(None)).with_for_update()):
        assert row.sealed is not None
        row.sealed = encryption.reseal(row.sealed, secret, older, "signing keys")
    session.flush()


def count_under_other_secret(session: Session, secret: str) -> int:
    """How many private keys are not encrypted under this secret."""
    found = session.scalars(select(SigningKey.sealed).where(SigningKey.sealed.is_not(None)))
    return sum(
        not encryption.is_sealed_under(sealed, secret, "signing keys")
        for sealed in found
        if sealed is not None
    )

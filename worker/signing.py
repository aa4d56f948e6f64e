"""The key that signs this deployment's manifests: the same on every worker, whichever host made it.

`python -m expunge.worker.signing show` lists the public keys, `rotate` makes a new one, `adopt FILE` takes
over one that a host has signed with, `revoke KEY_ID` removes a leaked one from the list.
"""

import argparse
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.orm import Session

from expunge.core.delivery.signing import key_id, load_private, private_pem, public_pem
from expunge.store import db, signing_keys
from expunge.store.errors import NotFound
from expunge.store.settings import Settings, read


def load_signing_key(settings: Settings) -> Ed25519PrivateKey:
    """EXPUNGE_SIGNING_KEY, else the deployment's own key, which the first worker makes.

    GET /signing-keys lists its public half from then on.
    """
    own = read_configured_key(settings)
    secret, older = settings.secret.get_secret_value(), settings.older_secrets
    with db.transaction(settings.database_url.get_secret_value()) as session:
        if own is not None:
            signing_keys.register(session, key_id(own.public_key()), public_pem(own.public_key()))
            return own
        kept = signing_keys.get_private_key(session, secret, older)
        if kept is None:
            signing_keys.lock(session)
            kept = signing_keys.get_private_key(session, secret, older)
        if kept is None:
            return adopt(session, Ed25519PrivateKey.generate(), secret)
        return load_private(kept.encode(), "the database")


def read_configured_key(settings: Settings) -> Ed25519PrivateKey | None:
    """The key in EXPUNGE_SIGNING_KEY, given as PEM or as the name of a PEM file; None where it is unset.

    Raises: ValueError where that is not a key.
    """
    if settings.signing_key is None:
        return None
    text = settings.signing_key.get_secret_value()
    if text.lstrip().startswith("-----BEGIN"):
        return load_private(text.replace("\\n", "\n").encode(), "EXPUNGE_SIGNING_KEY")
    try:
        return load_private(Path(text).read_bytes(), f"EXPUNGE_SIGNING_KEY, the file {text},")
    except OSError as error:
        remedy = "give all workers one key, or leave it out and the deployment makes one of its own"
        raise ValueError(
            f"EXPUNGE_SIGNING_KEY: {text} cannot be read ({error.strerror}): {remedy}"
        ) from error


def adopt(session: Session, key: Ed25519PrivateKey, secret: str) -> Ed25519PrivateKey:
    """Sign with this key from now on, on every worker."""
    signing_keys.activate(
        session, key_id(key.public_key()), public_pem(key.public_key()), private_pem(key), secret
    )
    return key


def main() -> None:
    parser = argparse.ArgumentParser(description="The keys that sign manifests.")
    parser.add_argument("action", choices=("show", "rotate", "adopt", "revoke"))
    parser.add_argument("what", nargs="?", default="", help="adopt: the PEM file; revoke: the key's id")
    options, settings = parser.parse_args(), read()
    secret = settings.secret.get_secret_value()
    if options.action in ("rotate", "adopt") and settings.signing_key is not None:
        parser.error(
            "EXPUNGE_SIGNING_KEY names the key that signs: change it there, or unset it for all workers first"
        )
    with db.transaction(settings.database_url.get_secret_value()) as session:
        signing_keys.lock(session)
        try:
            match options.action:
                case "rotate":
                    adopt(session, Ed25519PrivateKey.generate(), secret)
                case "adopt":
                    adopt(session, load_private(Path(options.what).read_bytes(), options.what), secret)
                case "revoke":
                    signing_keys.revoke(session, options.what)
        except (OSError, ValueError, NotFound) as error:
            parser.error(str(error))
        for row in signing_keys.list_keys(session):
            state = "signs" if row.retired_at is None else f"signed until {row.retired_at:%Y-%m-%d}"
            sys.stdout.write(f"{row.id} {state}\n{row.public_key}")


if __name__ == "__main__":
    main()

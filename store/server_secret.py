"""EXPUNGE_SECRET: what it must be like, a derived key for each use, and its rotation.

`python -m expunge.store.server_secret` counts what the secret before a rotation still protects, and with
`reseal` encrypts under the current one whatever can be read.
"""

import argparse
import hashlib
import math
import sys
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from expunge.store.settings import Settings

Use = Literal["api keys", "links", "logs", "signing keys"]
LEAST_CHARACTERS, LEAST_UNIT, LEAST_BITS = 32, 16, 80
REMEDY = "set it to the output of 'openssl rand -hex 32', the same for API, loops and workers"
PLACEHOLDERS = (
    "replaceme",
    "replacethis",
    "changeme",
    "changethis",
    "placeholder",
    "yoursecret",
    "mysecret",
    "supersecret",
    "topsecret",
    "defaultsecret",
    "testsecret",
    "expungesecret",
    "secretkey",
    "example",
    "insecure",
    "password",
    "development",
)


def is_placeholder(text: str, *words: str) -> bool:
    """Whether a text is a placeholder such as "change-me", not a secret."""
    letters = "".join(filter(str.isalnum, text.casefold()))
    return any(word in letters for word in words or PLACEHOLDERS)


def entropy_bits(text: str) -> float:
    """An upper bound of a text's entropy, from how often each character occurs."""
    return -sum(n * math.log2(n / len(text)) for n in Counter(text).values())


def repeated_length(text: str) -> int:
    """Length of the shortest beginning that makes up the whole text when it is repeated."""
    return next(n for n in range(1, len(text) + 1) if text == (text[:n] * (len(text) // n + 1))[: len(text)])


def find_weakness(secret: str) -> str | None:
    """Why no process may start with this secret; None for a proper one."""
    if not secret:
        return "is not set"
    if is_placeholder(secret):
        return "is a placeholder"
    if len(secret) < LEAST_CHARACTERS:
        return f"has {len(secret)} characters, and must have at least {LEAST_CHARACTERS}"
    if entropy_bits(secret) < LEAST_BITS or repeated_length(secret) < LEAST_UNIT:
        return "repeats itself and can be guessed"
    return None


def require_length(secret: str) -> str:
    """The secret itself.

    Raises: ValueError where it is too short to protect anything.
    """
    if len(secret) < LEAST_CHARACTERS:
        raise ValueError(f"EXPUNGE_SECRET must have at least {LEAST_CHARACTERS} characters: {REMEDY}")
    return secret


@lru_cache(maxsize=64)
def derive_key(secret: str, use: Use) -> bytes:
    """A key of 32 bytes for one use (HKDF-SHA256): a leak of one says nothing of the others."""
    return HKDF(SHA256(), 32, salt=None, info=f"expunge {use}".encode()).derive(
        require_length(secret).encode()
    )


@lru_cache(maxsize=64)
def secret_id(secret: str) -> str:
    """Eight hex digits that tell secrets apart; kept beside what a secret protects."""
    return hashlib.sha256(
        HKDF(SHA256(), 32, salt=None, info=b"expunge name").derive(secret.encode())
    ).hexdigest()[:8]


def report(settings: "Settings", reseal: bool) -> dict[str, int]:
    """Count what is protected by another secret than the current one.

    `reseal`: first encrypt under the current one whatever can be read.
    """
    from expunge.store import db, keys, signing_keys, webhooks

    secret, older = settings.secret.get_secret_value(), settings.older_secrets
    with db.transaction(settings.database_url.get_secret_value()) as session:
        if reseal:
            webhooks.reseal(session, secret, older)
            signing_keys.reseal(session, secret, older)
        hooks = webhooks.count_under_other_secret(session, secret)
        signing = signing_keys.count_under_other_secret(session, secret)
        return {
            "API keys (each moves when it is next used)": keys.count_under_other_secret(session, secret),
            "webhooks' secrets (python -m expunge.store.server_secret reseal)": hooks,
            "signing keys (python -m expunge.store.server_secret reseal)": signing,
        }


def main() -> None:
    from expunge.store.settings import read

    parser = argparse.ArgumentParser(
        description="Count what another secret than EXPUNGE_SECRET protects; reseal: first encrypt it again."
    )
    parser.add_argument("action", nargs="?", choices=("show", "reseal"), default="show")
    given = parser.parse_args()
    for what, count in report(read(), given.action == "reseal").items():
        sys.stdout.write(f"{count} {what}\n")


if __name__ == "__main__":
    main()

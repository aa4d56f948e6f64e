"""Reversible encryption of secrets that the service must read back, under a key derived from EXPUNGE_SECRET.

XSalsa20-Poly1305, libsodium's secret box.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from expunge.store.errors import Unreadable
from expunge.store.server_secret import derive_key, require_length

Use = Literal["webhooks", "signing keys"]


def secret_box(secret: str, use: Use) -> SecretBox:
    """The box for one use; webhooks' key is derived as in earlier releases, so that they can read it."""
    if use == "webhooks":
        return SecretBox(
            hashlib.blake2b(
                require_length(secret).encode(), digest_size=SecretBox.KEY_SIZE, person=b"expunge webhook"
            ).digest()
        )
    return SecretBox(derive_key(secret, use))


def seal(text: str, secret: str, use: Use = "webhooks") -> bytes:
    """Encrypt under the current secret."""
    return bytes(secret_box(secret, use).encrypt(text.encode()))


def unseal(sealed: bytes, secret: str, older: Sequence[str] = (), use: Use = "webhooks") -> str:
    """Decrypt under the current secret, or one of the older.

    Raises: Unreadable where it was encrypted under none of them.
    """
    for each in (secret, *older):
        try:
            return secret_box(each, use).decrypt(sealed).decode()
        except CryptoError:
            continue
    raise Unreadable("encrypted under another EXPUNGE_SECRET: set EXPUNGE_SECRET_PREVIOUS to that one")


def reseal(sealed: bytes, secret: str, older: Sequence[str], use: Use) -> bytes:
    """Encrypt again, under the current secret; what cannot be read is returned as it is."""
    try:
        return seal(unseal(sealed, secret, older, use), secret, use)
    except Unreadable:
        return sealed


def is_sealed_under(sealed: bytes, secret: str, use: Use) -> bool:
    """Whether it was encrypted under this very secret."""
    try:
        unseal(sealed, secret, use=use)
    except Unreadable:
        return False
    return True

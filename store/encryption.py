"""Secrets that must be had again, encrypted under a key of the server's own (XSalsa20-Poly1305, libsodium's
secret box).
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
    """Webhooks' key is derived as it always was, so that the release before reads what we seal."""
    if use == "webhooks":
        return SecretBox(
            hashlib.blake2b(
                require_length(secret).encode(), digest_size=SecretBox.KEY_SIZE, person=b"expunge webhook"
            ).digest()
        )
    return SecretBox(derive_key(secret, use))


def seal(text: str, secret: str, use: Use = "webhooks") -> bytes:
    return bytes(secret_box(secret, use).encrypt(text.encode()))


def unseal(sealed: bytes, secret: str, older: Sequence[str] = (), use: Use = "webhooks") -> str:
    """Unreadable when it was sealed under another secret than these."""
    for each in (secret, *older):
        try:
            return secret_box(each, use).decrypt(sealed).decode()
        except CryptoError:
            continue
    raise Unreadable("sealed under another EXPUNGE_SECRET: give that one as EXPUNGE_SECRET_PREVIOUS")


def reseal(sealed: bytes, secret: str, older: Sequence[str], use: Use) -> bytes:
    """Under the current secret; what nobody can read stays as it is."""
    try:
        return seal(unseal(sealed, secret, older, use), secret, use)
    except Unreadable:
        return sealed


def is_sealed_under(sealed: bytes, secret: str, use: Use) -> bool:
    """Whether it lies under this very secret."""
    try:
        unseal(sealed, secret, use=use)
    except Unreadable:
        return False
    return True

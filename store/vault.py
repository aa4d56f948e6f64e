"""Secrets that must be had again, encrypted under the server's own (XSalsa20-Poly1305, libsodium's secret box)."""

import hashlib

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from store.errors import Unreadable


def box(secret: str) -> SecretBox:
    return SecretBox(hashlib.blake2b(secret.encode(), digest_size=SecretBox.KEY_SIZE, person=b"expunge webhook").digest())


def seal(text: str, secret: str) -> bytes:
    return bytes(box(secret).encrypt(text.encode()))


def unseal(sealed: bytes, secret: str) -> str:
    """Unreadable when it was sealed under another secret."""
    try:
        return box(secret).decrypt(sealed).decode()
    except CryptoError as error:
        raise Unreadable("sealed under another EXPUNGE_SECRET") from error

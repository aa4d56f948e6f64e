"""Ed25519 signatures over a bundle's manifest. Needs no torch."""

import base64
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

Key = Path | Ed25519PrivateKey
"""What signs: a key, or the file that holds it, which is made on first use."""
PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


def private(key: Key) -> Ed25519PrivateKey:
    return load_or_create(key) if isinstance(key, Path) else key


def load_or_create(path: Path) -> Ed25519PrivateKey:
    """The private key at `path` (PEM, mode 0600), made on first use; its public key lies beside it as
    `<path>.pub`.
    """
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        write_once(path, private_pem(key).encode())
    key = load_private(path.read_bytes(), str(path))
    public = path.with_name(path.name + ".pub")
    if not public.exists():
        write_once(public, public_pem(key.public_key()).encode())
        public.chmod(0o644)
    return key


def load_private(pem: bytes, where: str) -> Ed25519PrivateKey:
    """Read a PEM private key; ValueError when `where` holds none."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:  # TypeError: it takes a password
        raise ValueError(
            f"{where} holds no Ed25519 private key that can be read: name another, or none to have one made"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{where} holds no Ed25519 private key: name another, or none to have one made")
    return key


def private_pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def write_once(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600 and its whole content at once; if another process was first, its file
    stays.
    """
    handle, name = tempfile.mkstemp(dir=path.parent)  # mkstemp's mode is 0600
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(handle)
    try:
        os.link(name, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(name)


def public_pem(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def load_public(pem: str | bytes) -> Ed25519PublicKey:
    """Read a PEM public key; ValueError when it is none."""
    key = load_pem_public_key(pem.encode() if isinstance(pem, str) else pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 public key")
    return key


def load_publics(content: bytes) -> list[Ed25519PublicKey]:
    """The signer's keys: PEM, one or several, or what GET /signing-keys answers.

    ValueError when there is none.
    """
    if content.lstrip().startswith(b"{"):
        try:
            pems = [str(entry["public_key"]).encode() for entry in json.loads(content)["items"]]
        except (KeyError, TypeError) as error:
            raise ValueError("JSON, but not what GET /signing-keys answers") from error
    else:
        pems = PEM.findall(content) or [content]
    if not pems:
        raise ValueError("no key in it: the service has signed nothing yet")
    return [load_public(pem) for pem in pems]


def key_id(key: Ed25519PublicKey) -> str:
    """First 16 hex digits of the sha256 of the raw public key."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def sign(key: Ed25519PrivateKey, payload: bytes) -> dict[str, str]:
    """The detached signature as manifest.sig holds it."""
    public = key.public_key()
    signature = base64.b64encode(key.sign(payload)).decode()
    return {
        "algorithm": "Ed25519",
        "key_id": key_id(public),
        "public_key": public_pem(public),
        "signature": signature,
    }


def is_signed_by(key: Ed25519PublicKey, signature: dict[str, Any], payload: bytes) -> bool:
    """Whether the signature over exactly these bytes is the key's."""
    try:
        key.verify(base64.b64decode(signature["signature"], validate=True), payload)
    except (InvalidSignature, KeyError, ValueError, TypeError):
        return False
    return True

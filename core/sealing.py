"""Sealed boxes (libsodium: X25519, XSalsa20-Poly1305): anyone can close one to a public key, only the
private key opens it. Needs no torch.
"""

import base64
import hashlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox


def seal(data: bytes, public_key: str) -> bytes:
    """The data in a box for the owner of `public_key` (base64). Two boxes of the same data differ."""
    return bytes(SealedBox(PublicKey(base64.b64decode(public_key))).encrypt(data))


def unseal(box: bytes, private_key: str) -> bytes:
    """What is in the box; ValueError when it was closed to another key, or changed, or when there is no box
    or no key.
    """
    try:
        key = PrivateKey(base64.b64decode(private_key, validate=True))
    except (ValueError, TypeError) as error:
        raise ValueError("there is no private key: give the file that 'expunge key-pair' wrote") from error
    try:
        return bytes(SealedBox(key).decrypt(box))
    except (CryptoError, ValueError, TypeError) as error:
        raise ValueError(
            "the box does not open: it was sealed to another public key, is none, or was changed"
        ) from error


def write_private(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600; FileExistsError when it is there."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)


def say(message: str) -> None:
    sys.stderr.write(message + "\n")


def make_pair(
    private: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes (mode 0600).")],
) -> None:
    """Make an X25519 key pair for sealed recovery keys: the private key into FILE, the public key, for
    seal_to, on standard output.
    """
    key = PrivateKey.generate()
    try:
        write_private(private, base64.b64encode(bytes(key)) + b"\n")
    except OSError as error:
        say(f"cannot write {private} ({error.strerror}): name a new file")
        raise typer.Exit(1) from error
    sys.stdout.write(base64.b64encode(bytes(key.public_key)).decode() + "\n")


def open_box(
    box: Annotated[Path, typer.Argument(help="The sealed recovery key.")],
    private_key: Annotated[Path, typer.Option(help="The file that 'expunge key-pair' wrote.")],
    out: Annotated[Path, typer.Option(help="Where the opened key goes (mode 0600).")] = Path(
        "recovery_key.safetensors"
    ),
) -> None:
    """Open a sealed recovery key; prints its sha256, which the bundle's signed manifest states as
    plain_sha256.
    """
    try:
        data = unseal(box.read_bytes(), private_key.read_text().strip())
        write_private(out, data)
    except FileExistsError as error:
        say(f"{out} exists: name a new file with --out")
        raise typer.Exit(1) from error
    except (OSError, ValueError) as error:
        say(str(error))
        raise typer.Exit(1) from error
    sys.stdout.write(f"{hashlib.sha256(data).hexdigest()}  {out}\n")

"""manifest.json: what a bundle was made from and with, and the sha256 and size of each of its files.

Needs no torch.
"""

import hashlib
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from expunge.core.delivery import signing

FORMAT = "expunge-bundle/1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
LIBRARIES = (
    "expunge",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "safetensors",
    "numpy",
    "timm",
    "open_clip_torch",
    "nudenet",
)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def libraries() -> dict[str, str]:
    """Versions of what the numbers depend on; a library that is not installed is left out."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def seal(folder: Path, facts: dict[str, Any], key: signing.Key | None) -> list[Path]:
    """Write manifest.json over every file in `folder`, naming the key that signs it, and manifest.sig when
    there is one; returns what was written.
    """
    names = sorted(
        f.relative_to(folder).as_posix()
        for f in folder.rglob("*")
        if f.is_file() and f.name not in (MANIFEST, SIGNATURE)
    )
    files = {
        name: {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size} for name in names
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    private = None if key is None else signing.private(key)
    signed = {} if private is None else {"signed_by": signing.key_id(private.public_key())}
    content = {
        "format": FORMAT,
        "created_at": created,
        **signed,
        **facts,
        "libraries": libraries(),
        "files": files,
    }
    payload = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    (folder / MANIFEST).write_bytes(payload)
    if private is None:
        return [folder / MANIFEST]
    (folder / SIGNATURE).write_text(json.dumps(signing.sign(private, payload), indent=1) + "\n")
    return [folder / MANIFEST, folder / SIGNATURE]

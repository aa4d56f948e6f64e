"""manifest.json: what a bundle was made from and with, and the sha256 and size of each of its files; its
signature, and the certificate that is derived from it. Imports no torch.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from expunge.core.delivery import certificate, signing

FORMAT = "expunge-bundle/1"
MANIFEST, SIGNATURE, REPORT = "manifest.json", "manifest.sig", "report.json"
WEIGHTS = (".safetensors", ".zip")  # how the names of files end that hold weights or learned words
SEALS = (MANIFEST, SIGNATURE, certificate.FILE)  # what no manifest lists: each is made after it
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
    """Versions of what the numbers depend on; libraries that are not installed are left out."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def seal(folder: Path, facts: dict[str, Any], key: signing.Key | None) -> list[Path]:
    """Write manifest.json over every file in `folder`; where there is a key to sign with, manifest.sig and
    certificate.json too. Returns the files written.
    """
    private = None if key is None else signing.private(key)
    content: dict[str, Any] = {
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if private is not None:
        content |= {"signed_by": signing.key_id(private.public_key()), "certificate": certificate.FILE}
    withheld = (facts.get("verdict") or {}).get("delivery") == "withheld"
    content |= {**facts, "libraries": libraries(), "files": list_files(folder, withheld=withheld)}
    payload = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    (folder / MANIFEST).write_bytes(payload)
    if private is None:
        return [folder / MANIFEST]
    (folder / SIGNATURE).write_text(json.dumps(signing.sign(private, payload), indent=1) + "\n")
    (folder / certificate.FILE).write_bytes(certificate.sign(private, derive_statement(folder, payload)))
    return [folder / name for name in SEALS]


def derive_statement(folder: Path, payload: bytes) -> certificate.Statement:
    """The statement that follows from the manifest's bytes and the report in the folder."""
    digest = hashlib.sha256(payload).hexdigest()
    return certificate.derive(json.loads(payload), digest, read_report(folder))


def read_report(folder: Path) -> dict[str, Any]:
    """What report.json says; empty where there is none that can be read."""
    try:
        found = json.loads((folder / REPORT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def list_files(folder: Path, *, withheld: bool = False) -> dict[str, dict[str, Any]]:
    """sha256 and size of each file in `folder`, by name; without the seals. withheld: files of weights are
    marked so: whoever has the rest of the bundle has it whole.
    """
    files = {}
    for file in folder.rglob("*"):
        if file.is_file() and file.name not in SEALS:
            entry: dict[str, Any] = {"sha256": sha256(file), "size": file.stat().st_size}
            if withheld and file.suffix in WEIGHTS:
                entry["withheld"] = True
            files[file.relative_to(folder).as_posix()] = entry
    return dict(sorted(files.items()))


def held_of(stated: Mapping[str, Any]) -> list[str] | None:
    """Names of the concepts that the job of this manifest, or the job that it judged, saw while training;
    None where it does not say, and of a stack.
    """
    training = {} if stated.get("stack") else (stated.get("delta") or {}).get("training") or {}
    names: list[str] | None = stated.get("held", training.get("held"))
    return names


def preserve_of(stated: Mapping[str, Any]) -> list[str]:
    """Names of the concepts that were judged as preserved whatever else was: those that the request of this
    manifest's job names, and those that a combination restored or an evaluation took over.
    """
    return [*(stated.get("spec") or {}).get("preserve", ()), *stated.get("preserve", ())]

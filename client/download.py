"""Download an artifact so that a dropped line costs nothing and a wrong byte is noticed."""

import hashlib
import os
from pathlib import Path, PurePosixPath

import httpx

from expunge.client.errors import ApiError, ConnectionFailed, IntegrityError
from expunge.client.transport import RETRIED, Transport, pause
from expunge.client.types import Artifact

CHUNK = 1 << 20  # bytes


def place(folder: Path, name: str) -> Path:
    """Where an artifact of this name goes; never outside the folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in name:
        raise IntegrityError(f"the service names a file {name!r}, which does not stay inside the folder")
    return folder.joinpath(*parts)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(transport: Transport, artifact: Artifact, part: Path) -> None:
    """Append what is missing to `part`; start afresh where the server no longer holds the same bytes."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{artifact.sha256}"'}
    with (
        transport.stream(f"/artifacts/{artifact.id}/content", headers) as response,
        part.open("ab" if response.status_code == 206 else "wb") as file,
    ):
        for chunk in response.iter_bytes(CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def download(transport: Transport, artifact: Artifact, folder: Path) -> Path:
    """The file, verified; a file that is already there and right is kept."""
    path = place(folder, artifact.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size == artifact.size and sha256(path) == artifact.sha256:
        return path
    # The name itself may be as long as names may be
    part = path.with_name(f"{artifact.id}.{artifact.sha256[:16]}.part")
    if artifact.kind == "recovery_key":
        part.touch(mode=0o600)  # a secret: nobody else on this machine may read it
    failures = 0
    while not part.exists() or part.stat().st_size < artifact.size:
        before = part.stat().st_size if part.exists() else -1
        try:
            fetch(transport, artifact, part)
        except (httpx.TransportError, ApiError) as error:
            if isinstance(error, ApiError) and error.status not in RETRIED:
                raise
            grown = part.exists() and part.stat().st_size > max(before, 0)
            failures = 0 if grown else failures + 1
            if failures > transport.retries:
                raise (
                    error
                    if isinstance(error, ApiError)
                    else ConnectionFailed(f"{artifact.name}: the download broke off: {error}")
                ) from error
            transport.sleep(pause(failures, None))
    found = sha256(part)
    if part.stat().st_size != artifact.size or found != artifact.sha256:
        part.unlink()
        raise IntegrityError(
            f"{artifact.name} has sha256 {found}, but {artifact.sha256} was stated: the download was thrown"
            " away"
        )
    os.replace(part, path)
    return path

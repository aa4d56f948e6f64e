"""Downloads that resume where the connection was lost, and are checked against the stated sha256."""

import hashlib
import os
from pathlib import Path, PurePosixPath

import httpx

from expunge.client.errors import ApiError, ConnectionFailed, IntegrityError
from expunge.client.transport import RETRIED, Transport, pause
from expunge.client.types import Artifact

CHUNK = 1 << 20  # bytes


def path_in(folder: Path, name: str) -> Path:
    """Where an artifact of this name goes. Raises: IntegrityError where that is outside the folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in name:
        raise IntegrityError(f"the service names a file {name!r}, which would lie outside the folder")
    return folder.joinpath(*parts)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(transport: Transport, artifact: Artifact, part: Path) -> None:
    """Append the missing bytes to `part`, or start anew where the service now has other bytes."""
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


def download_artifact(transport: Transport, artifact: Artifact, folder: Path) -> Path:
    """The downloaded file; kept where it is already there with the right bytes.

    Raises: IntegrityError where the bytes are wrong; ConnectionFailed or ApiError after all retries.
    """
    path = path_in(folder, artifact.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size == artifact.size and sha256(path) == artifact.sha256:
        return path
    # Not the artifact's name with a suffix: it may be as long as the file system allows
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
            progress = part.exists() and part.stat().st_size > max(before, 0)
            failures = 0 if progress else failures + 1
            if failures > transport.retries:
                if isinstance(error, ApiError):
                    raise
                raise ConnectionFailed(f"{artifact.name}: the download broke off: {error}") from error
            transport.sleep(pause(failures, None))
    found = sha256(part)
    if part.stat().st_size != artifact.size or found != artifact.sha256:
        part.unlink()
        raise IntegrityError(
            f"{artifact.name} has sha256 {found}, but the service stated {artifact.sha256}: the download was"
            " deleted"
        )
    os.replace(part, path)
    return path

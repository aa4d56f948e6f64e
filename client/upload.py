"""Files that are uploaded: what type an image has, and the request that sends a file."""

from pathlib import Path

from expunge.client.errors import BadFile
from expunge.client.transport import Transport
from expunge.client.types import Artifact

IMAGE_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
"""First bytes of a file, whatever it is called: its media type."""


def image_type(file: Path) -> str:
    """The media type of an image, by its first bytes.

    Raises: BadFile where it is empty or not a PNG, JPEG or WebP; OSError.
    """
    with file.open("rb") as opened:
        head = opened.read(12)
    if not head:
        raise BadFile(f"{file} is empty")
    for begin, media_type in IMAGE_TYPES.items():
        if head.startswith(begin) and (begin != b"RIFF" or head[8:] == b"WEBP"):
            return media_type
    raise BadFile(f"{file} is not a PNG, JPEG or WebP image: save it as one of these")


def prompt_set_type(file: Path) -> str:
    """The media type of a prompt set, by its first character. Raises: BadFile where it is empty; OSError."""
    with file.open("rb") as opened:
        head = opened.read(200).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        raise BadFile(f"{file} is empty")
    return "application/jsonl" if head.startswith(b"{") else "text/csv"


def upload_file(
    transport: Transport, file: Path, media_type: str, facts: dict[str, str], idempotency_key: str | None
) -> Artifact:
    """Send a file; `facts` are its name and, of a delta, the model."""
    answer = transport.request(
        "POST",
        "/artifacts",
        content=file.read_bytes,
        params=facts,
        headers={"Content-Type": media_type},
        idempotency_key=idempotency_key,
    )
    return Artifact.model_validate(answer.json())

"""Requests that name files still to be uploaded: checked by a dry run before a byte is sent."""

from itertools import count
from pathlib import Path
from typing import Any

from expunge.client.api import Expunge
from expunge.client.download import sha256
from expunge.client.errors import BadFile
from expunge.client.types import Validated
from expunge.client.upload import image_type

TO_COME = "00000000-0000-0000-0000-{:012x}"  # a dry run takes these ids, 1 and up, for what is to be uploaded
PROMPTS = 0xFFFF  # the number of a prompt set among them
FEWEST = 3  # different images to learn a word from


def check_with_images(
    client: Expunge, kind: str, request: dict[str, Any], files: dict[str, list[Path]]
) -> Validated:
    """What the service says of a request whose first concept has these `images` and `masks`.

    Raises: ApiError where it would be refused; BadFile where a file is not an image or too few differ.
    """
    for file in (file for each in files.values() for file in each):
        image_type(file)
    images = files.get("images", [])
    different = len({sha256(file) for file in images})
    if different < min(FEWEST, len(images)):
        counted = f"{different} of the {len(images)} images {'is' if different == 1 else 'are'}"
        raise BadFile(f"only {counted} distinct: give {FEWEST} to 10 different images")

    # Ids that stand for the uploads, and in the answer the files in their place
    numbers = count(1)
    ids = {field: [TO_COME.format(next(numbers)) for _ in each] for field, each in files.items()}
    found = client.validate(kind, request | {"concepts": [request["concepts"][0] | ids]})
    found.spec["concepts"][0] |= {field: [str(file) for file in each] for field, each in files.items()}
    return found


def upload_images(client: Expunge, files: list[Path], key: str | None) -> list[str]:
    """The ids of the uploaded images; with an idempotency key, a repeated call uploads none twice."""
    ids = []
    for number, file in enumerate(files):
        ids.append(client.upload_image(file, idempotency_key=key and f"{key}-{number}").id)
    return ids


def with_prompts(request: dict[str, Any], prompts: Path | str | None) -> dict[str, Any]:
    """The request with the name of a prompt set, or with an id that stands for a file to be uploaded."""
    if prompts is None:
        return request
    named = prompts if isinstance(prompts, str) else TO_COME.format(PROMPTS)
    return request | {"evaluation": request.get("evaluation", {}) | {"prompts": named}}


def upload_prompts(
    client: Expunge, kind: str, request: dict[str, Any], prompts: Path | str | None
) -> dict[str, Any]:
    """The request with its prompt set, uploaded once the rest is known to be good.

    Raises: ApiError where the request is refused, or a row of the file; BadFile where it is empty.
    """
    named = with_prompts(request, prompts)
    if isinstance(prompts, Path):
        client.validate(kind, named)
        named["evaluation"]["prompts"] = client.upload_prompts(prompts).id
    return named


def upload_delta(client: Expunge, kind: str, request: dict[str, Any], file: Path, model: str) -> str:
    """The id of an uploaded delta. Raises: ApiError where the request is refused; nothing is sent then."""
    client.validate(kind, request | {"artifact_id": TO_COME.format(1)})
    return client.upload(file, model=model).id

"""Uploaded images: decoded safely, re-encoded plain, refused clearly; and what a job may name."""

import io
import struct
import uuid
import zlib

import numpy as np
import pytest
from live_service import Tenant, errors, problem
from PIL import Image, PngImagePlugin

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def upload(tenant: Tenant, content: bytes, media_type: str = "image/png", **headers: str):
    return tenant.http().post("/artifacts", content=content, headers={"Content-Type": media_type, **headers})


def stored(tenant: Tenant, answer) -> Image.Image:
    assert answer.status_code == 201, answer.text
    assert answer.json()["media_type"] == "image/png"
    return Image.open(io.BytesIO(tenant.http().get(answer.headers["location"] + "/content").content))


@pytest.mark.parametrize("kind", TYPES)
def test_each_format_is_stored_as_a_plain_png(tenant: Tenant, kind: str):
    image = stored(
        tenant, upload(tenant, encoded(Image.fromarray(PIXELS), kind, **({"lossless": True} if kind == "WEBP" else {})), TYPES[kind])
    )
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (60, 40))
    if kind != "JPEG":
        assert np.array_equal(np.asarray(image), PIXELS)


def test_metadata_is_stripped_and_the_orientation_applied(tenant: Tenant):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "secret place"
    content = encoded(Image.fromarray(PIXELS), "JPEG", exif=exif, comment=b"secret comment", quality=95)
    assert b"secret" in content
    answer = upload(tenant, content, "image/jpeg")
    image = stored(tenant, answer)
    assert image.size == (40, 60)
    assert not image.info
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "secret")
    again = upload(tenant, encoded(Image.fromarray(PIXELS), pnginfo=info, icc_profile=b"secret" * 30))
    for done in (answer, again):
        assert b"secret" not in tenant.http().get(done.headers["location"] + "/content").content


def test_transparent_parts_come_to_stand_on_white_and_sixteen_bits_become_eight(tenant: Tenant):
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    assert np.asarray(stored(tenant, upload(tenant, encoded(clear)))).min() == 255
    grey = Image.fromarray(np.full((40, 40), 257 * 100, np.uint16))
    assert set(np.asarray(stored(tenant, upload(tenant, encoded(grey)))).ravel()) == {100}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A small file whose header speaks of side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


PNG = encoded(Image.fromarray(PIXELS))
FRAMES = [Image.fromarray(np.roll(PIXELS, k)) for k in (0, 7)]


@pytest.mark.parametrize(
    ("content", "media_type", "code", "words"),
    [
        (b"", "image/png", "not_an_image", "no PNG, JPEG or WebP"),
        (b"GIF89a" + bytes(50), "image/png", "not_an_image", "no PNG, JPEG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png", "not_an_image", "no PNG, JPEG or WebP"),
        (encoded(Image.fromarray(PIXELS), "GIF"), "image/png", "not_an_image", "no PNG, JPEG or WebP"),
        (PNG, "image/jpeg", "not_an_image", "The bytes are PNG, the Content-Type says image/jpeg"),
        (PNG[: len(PNG) // 2], "image/png", "not_an_image", "broken or ends early"),
        (encoded(Image.fromarray(PIXELS), "JPEG")[:-300], "image/jpeg", "not_an_image", "broken or ends early"),
        (PNG[:60] + b"\x00\xff\x00\xff" + PNG[64:], "image/png", "not_an_image", "broken or ends early"),
        (encoded(Image.new("RGB", (31, 64))), "image/png", "image_unusable", "31 x 64 px; at least 32"),
        (encoded(Image.new("1", (4097, 32))), "image/png", "image_unusable", "more than 4096 px a side"),
        (bomb(5_000), "image/png", "image_unusable", "more than 4096 px a side"),
        (bomb(100_000), "image/png", "image_unusable", "more than 4096 px a side"),
        (bomb(4_000), "image/png", "not_an_image", "broken or ends early"),
        (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "image/webp", "image_unusable", "animated"),
        (encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "image/png", "image_unusable", "animated"),
    ],
)
def test_a_wrong_image_is_refused_with_its_reason(tenant: Tenant, content: bytes, media_type: str, code: str, words: str):
    assert words in problem(upload(tenant, content, media_type), 422, code)["detail"]


def test_an_image_over_ten_mebibytes_is_not_read(tenant: Tenant):
    problem(upload(tenant, bytes((10 << 20) + 1)), 413, "payload_too_large")


def test_another_media_type_is_told_what_is_taken(tenant: Tenant):
    answer = upload(tenant, b"GIF89a", "image/gif")
    problem(answer, 415, "unsupported_media_type")
    assert "image/png" in answer.headers["accept-post"]


def test_an_image_repeated_with_its_key_is_stored_once(tenant: Tenant):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    assert upload(tenant, PNG, **key).json()["id"] == upload(tenant, PNG, **key).json()["id"]


# What a job may name


@pytest.fixture
def ids(tenant: Tenant) -> list[str]:
    return [upload(tenant, encoded(Image.fromarray(np.roll(PIXELS, k)))).json()["id"] for k in range(3)]


def mask(tenant: Tenant, pixels: np.ndarray) -> str:
    return upload(tenant, encoded(Image.fromarray(pixels))).json()["id"]


def asked(tenant: Tenant, **concept: object):
    return tenant.http().post("/jobs/erase", json={"concepts": [{"name": "my dog", **concept}]})


def half() -> np.ndarray:
    return np.tile(np.where(np.arange(60) < 30, 255, 0).astype(np.uint8), (40, 1))


def test_a_visual_edit_and_a_mask_edit_are_accepted(tenant: Tenant, ids: list[str]):
    assert asked(tenant, images=ids, target="cat").status_code == 202
    answer = asked(tenant, images=ids, masks=[mask(tenant, half()) for _ in ids])
    assert answer.status_code == 202
    assert answer.json()["spec"]["inversion"]["vectors"] == 1


def test_anothers_image_looks_like_none(tenant: Tenant, other: Tenant, ids: list[str]):
    theirs = upload(other, PNG).json()["id"]
    unknown = str(uuid.uuid4())
    for id_ in (theirs, unknown):
        assert errors(asked(tenant, images=[*ids[:2], id_]))["concepts[0].images[2]"].startswith(f"there is no image {id_} ")


def test_a_jobs_picture_and_a_mask_that_does_not_fit_are_refused(tenant: Tenant, ids: list[str], tmp_path):
    made = str(tenant.finish(tenant.erase()["id"], {"grid.png": PNG}, tmp_path)[0].id)
    assert "not an uploaded image" in errors(asked(tenant, images=[*ids[:2], made]))["concepts[0].images[2]"]
    good = mask(tenant, half())
    for bad, words in ((half()[:, :-1], "has 59 x 40 px"), (half() * 0, "keeps nothing"), (half() * 0 + 255, "keeps everything")):
        found = errors(asked(tenant, images=ids, masks=[good, mask(tenant, bad), good]))
        assert words in found["concepts[0].masks[1]"]


def test_an_image_is_no_delta(tenant: Tenant, ids: list[str]):
    answer = tenant.http().post("/jobs/evaluate", json={"artifact_id": ids[0], "concepts": ["church"]})
    assert "names an image" in errors(answer)["artifact_id"]


def test_an_upload_needs_the_scope(tenant: Tenant):
    problem(tenant.http("jobs:read").post("/artifacts", content=PNG, headers={"Content-Type": "image/png"}), 403, "forbidden")

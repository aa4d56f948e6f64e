"""Uploaded images: decoded safely, re-encoded plain, refused clearly; and what a job may name."""

import io
import struct
import uuid
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.support.service import Tenant, errors, problem

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
        tenant,
        upload(
            tenant,
            encoded(Image.fromarray(PIXELS), kind, **({"lossless": True} if kind == "WEBP" else {})),
            TYPES[kind],
        ),
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


def fixed(*values: float) -> bytes:
    """Numbers as ICC's s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def icc(space: bytes, gamma: float, *primaries: tuple[float, float, float]) -> bytes:
    """A small ICC profile: a curve for each channel, and for RGB the XYZ (D50) of its primaries."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249),
        b"kTRC" if space == b"GRAY" else b"rTRC": curve,
    }
    tags |= {
        name + b"XYZ": b"XYZ " + bytes(4) + fixed(*xyz)
        for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=False)
    }
    tags |= {b"gTRC": curve, b"bTRC": curve} if primaries else {}
    table, data, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    head = (
        b"none"
        + struct.pack(">I", 0x02400000)
        + b"mntr"
        + space
        + b"XYZ "
        + bytes(12)
        + b"acsp"
        + bytes(28)
        + fixed(0.9642, 1, 0.8249)
    )
    head = (struct.pack(">I", at + len(data)) + head).ljust(128, b"\0")
    return head + table + data


P3 = icc(b"RGB ", 2.2, (0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE = icc(b"RGB ", 2.2, (0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
LIGHT = icc(b"GRAY", 1.0)


class TestColours:
    @pytest.mark.parametrize(
        ("profile", "expected"),
        [(P3, (219, 37, 13)), (ADOBE, (231, 57, 34))],
        ids=["Display-P3", "Adobe RGB"],
    )
    @pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
    def test_a_wide_colour_space_becomes_srgb(
        self, tenant: Tenant, profile: bytes, expected: tuple[int, ...], kind: str
    ):
        picture = (
            Image.new("RGB", (64, 64), (200, 60, 40)).convert(kind)
            if kind != "P"
            else Image.new("P", (64, 64))
        )
        if kind == "P":
            picture.putpalette([200, 60, 40])
        image = stored(tenant, upload(tenant, encoded(picture, icc_profile=profile)))
        assert (image.mode, image.info) == ("RGB", {})
        assert np.abs(np.asarray(image).reshape(-1, 3).astype(int) - expected).max() <= 3

    def test_a_jpeg_s_and_a_webp_s_profile_count_too(self, tenant: Tenant):
        for kind, options in (("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})):
            answer = upload(
                tenant,
                encoded(Image.new("RGB", (64, 64), (200, 60, 40)), kind, icc_profile=P3, **options),
                TYPES[kind],
            )
            assert (
                np.abs(np.asarray(stored(tenant, answer)).reshape(-1, 3).astype(int) - (219, 37, 13)).max()
                <= 5
            )

    @pytest.mark.parametrize("mode", ["L", "LA"])
    def test_a_grey_profile_counts_and_grey_stays_grey(self, tenant: Tenant, mode: str):
        picture = Image.new("L", (64, 64), 55).convert(mode)
        image = stored(tenant, upload(tenant, encoded(picture, icc_profile=LIGHT)))
        assert np.abs(np.asarray(image.convert("L")).astype(int) - 128).max() <= 3, (
            "a fifth of the light is sRGB's middle"
        )

    @pytest.mark.parametrize(
        "profile",
        [b"secret" * 30, P3[:200], LIGHT, ADOBE.replace(b"RGB ", b"CMYK", 1)],
        ids=["junk", "cut", "grey", "CMYK"],
    )
    def test_a_profile_that_cannot_be_of_the_image_is_as_none(self, tenant: Tenant, profile: bytes):
        image = stored(
            tenant, upload(tenant, encoded(Image.new("RGB", (64, 64), (200, 60, 40)), icc_profile=profile))
        )
        assert image.getpixel((5, 5)) == (200, 60, 40)

    def test_a_print_s_four_inks_become_three_colours(self, tenant: Tenant):
        inks = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
        red = (
            np.asarray(stored(tenant, upload(tenant, encoded(inks, "JPEG"), "image/jpeg")))
            .reshape(-1, 3)
            .mean(0)
        )
        assert red[0] > 200 > 60 > red[1:].max()


class TestPhotographs:
    def test_of_several_pictures_in_a_jpeg_the_first_is_taken(self, tenant: Tenant):
        first, second = Image.new("RGB", (64, 48), (200, 60, 40)), Image.new("RGB", (64, 48), (0, 0, 255))
        content = encoded(first, "MPO", save_all=True, append_images=[second])
        for media_type in ("image/jpeg", "image/jpg"):
            image = stored(tenant, upload(tenant, content, media_type))
            assert (image.size, image.getpixel((9, 9))[2] < 100) == ((64, 48), True)

    def test_a_phone_s_jpeg_is_turned_and_loses_all_it_says(self, tenant: Tenant):
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "secret"
        content = encoded(
            Image.fromarray(PIXELS), "MPO", save_all=True, append_images=[Image.fromarray(PIXELS)], exif=exif
        )
        answer = upload(tenant, content, "image/jpeg")
        assert stored(tenant, answer).size == (40, 60)
        assert b"secret" not in tenant.http().get(answer.headers["location"] + "/content").content

    @pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0, "optimize": True}])
    def test_sorts_of_jpeg(self, tenant: Tenant, options: dict):
        assert stored(
            tenant, upload(tenant, encoded(Image.fromarray(PIXELS), "JPEG", **options), "image/jpeg")
        ).size == (60, 40)

    def test_a_colour_that_stands_for_clear_comes_to_stand_on_white(self, tenant: Tenant):
        palette = Image.new("P", (40, 40), 3)
        palette.putpalette([9] * 768)
        for picture, clear in (
            (Image.new("RGB", (40, 40), (9, 8, 7)), (9, 8, 7)),
            (Image.new("L", (40, 40), 9), 9),
            (palette, 3),
        ):
            for profile in ({}, {"icc_profile": P3}):
                content = encoded(picture, transparency=clear, **profile)
                assert np.asarray(stored(tenant, upload(tenant, content))).min() == 255

    @pytest.mark.parametrize(
        ("head", "name"),
        [
            (b"\0\0\0\x18ftypheic", "HEIC"),
            (b"\0\0\0\x1cftypavif", "AVIF"),
            (b"GIF89a", "GIF"),
            (b"II*\0", "TIFF"),
            (b"BM", "BMP"),
            (b"%PDF-1.7", "PDF"),
        ],
    )
    def test_what_is_not_read_is_refused_by_its_name(self, tenant: Tenant, head: bytes, name: str):
        found = problem(upload(tenant, head + bytes(100), "image/jpeg"), 422, "not_an_image")
        assert f"The bytes are {name}, not PNG, JPEG or WebP: convert" in found["detail"]
        other = f"image/{name.lower()}"
        assert (
            other
            in problem(upload(tenant, head + bytes(100), other), 415, "unsupported_media_type")["detail"]
        )

    def test_packed_profiles_and_texts_without_end_are_not_unpacked(self, tenant: Tenant):
        for kind, head in ((b"iCCP", b"x\0\0"), (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0")):
            content = PNG[:33] + chunk(kind, head + zlib.compress(bytes(64 << 20))) + PNG[33:]
            problem(upload(tenant, content), 422, "not_an_image")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A small file whose header speaks of side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


PNG = encoded(Image.fromarray(PIXELS))
FRAMES = [Image.fromarray(np.roll(PIXELS, k)) for k in (0, 7)]


@pytest.mark.parametrize(
    ("content", "media_type", "code", "words"),
    [
        (b"", "image/png", "not_an_image", "The body is empty: send a complete PNG, JPEG or WebP file"),
        (b"GIF89a" + bytes(50), "image/png", "not_an_image", "not PNG, JPEG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png", "not_an_image", "not PNG, JPEG or WebP"),
        (encoded(Image.fromarray(PIXELS), "GIF"), "image/png", "not_an_image", "not PNG, JPEG or WebP"),
        (PNG, "image/jpeg", "not_an_image", "The bytes are PNG, but the Content-Type is image/jpeg"),
        (PNG[: len(PNG) // 2], "image/png", "not_an_image", "damaged or ends early"),
        (
            encoded(Image.fromarray(PIXELS), "JPEG")[:-300],
            "image/jpeg",
            "not_an_image",
            "damaged or ends early",
        ),
        (PNG[:60] + b"\x00\xff\x00\xff" + PNG[64:], "image/png", "not_an_image", "damaged or ends early"),
        (
            encoded(Image.new("RGB", (31, 64))),
            "image/png",
            "image_unusable",
            "31 x 64 px: each side must",
        ),
        (encoded(Image.new("1", (4097, 32))), "image/png", "image_unusable", "a side of more than 4096 px"),
        (bomb(5_000), "image/png", "image_unusable", "a side of more than 4096 px"),
        (bomb(100_000), "image/png", "image_unusable", "a side of more than 4096 px"),
        (bomb(4_000), "image/png", "not_an_image", "damaged or ends early"),
        (
            encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
            "image/webp",
            "image_unusable",
            "animated",
        ),
        (
            encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
            "image/png",
            "image_unusable",
            "animated",
        ),
    ],
)
def test_a_wrong_image_is_refused_with_its_reason(
    tenant: Tenant, content: bytes, media_type: str, code: str, words: str
):
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


def test_images_that_are_not_square_are_spoken_of(tenant: Tenant, ids: list[str]):
    found = [note for note in asked(tenant, images=ids, target="cat").json()["notes"] if "square" in note]
    assert found == [
        "concepts[0].images: 3 of 3 are not square; only the middle square of each is learned from."
    ]
    square = [
        upload(tenant, encoded(Image.fromarray(np.roll(PIXELS[:, :40], k)))).json()["id"] for k in range(3)
    ]
    assert not [
        note for note in asked(tenant, images=square, target="cat").json()["notes"] if "square" in note
    ]


def test_anothers_image_looks_like_none(tenant: Tenant, other: Tenant, ids: list[str]):
    theirs = upload(other, PNG).json()["id"]
    unknown = str(uuid.uuid4())
    for id_ in (theirs, unknown):
        assert errors(asked(tenant, images=[*ids[:2], id_]))["concepts[0].images[2]"].startswith(
            f"there is no image {id_} "
        )


def test_a_jobs_picture_and_a_mask_that_does_not_fit_are_refused(tenant: Tenant, ids: list[str], tmp_path):
    made = str(tenant.finish(tenant.erase()["id"], {"grid.png": PNG}, tmp_path)[0].id)
    assert "not an uploaded image" in errors(asked(tenant, images=[*ids[:2], made]))["concepts[0].images[2]"]
    good = mask(tenant, half())
    for bad, words in (
        (half()[:, :-1], "has 59 x 40 px"),
        (half() * 0, "keeps nothing"),
        (half() * 0 + 255, "keeps everything"),
    ):
        found = errors(asked(tenant, images=ids, masks=[good, mask(tenant, bad), good]))
        assert words in found["concepts[0].masks[1]"]


def test_an_image_is_no_delta(tenant: Tenant, ids: list[str]):
    answer = tenant.http().post("/jobs/evaluate", json={"artifact_id": ids[0], "concepts": ["church"]})
    assert "names 'image.png', which is not a delta" in errors(answer)["artifact_id"]


def test_an_upload_needs_the_scope(tenant: Tenant):
    problem(
        tenant.http("jobs:read").post("/artifacts", content=PNG, headers={"Content-Type": "image/png"}),
        403,
        "forbidden",
    )

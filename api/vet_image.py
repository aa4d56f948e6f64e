"""Vet an uploaded image without torch: header first, then bounded decoding, then a PNG of our own, in sRGB
and without metadata.
"""

import asyncio
import io
import uuid
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageCms, ImageOps

from expunge.api.problems import Problem

T = TypeVar("T")
# MPO: a JPEG followed by further pictures, as phones take them
FORMATS = {"image/png": ("PNG",), "image/jpeg": ("JPEG", "MPO"), "image/webp": ("WEBP",)}
ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
MEDIA_TYPES = tuple(FORMATS)
STORED = "image/png"
MAX_BYTES = 10 << 20
MIN_SIDE, MAX_SIDE = 32, 4096  # pixels
# Each scan of a progressive JPEG goes over the whole picture; ten are usual
SCAN, MAX_SCANS = (b"\xff\xda", 200)
STRIP = 256  # rows that are made opaque at a time
WAITING = 32  # uploads of one tenant that may wait to be looked at
SRGB = ImageCms.createProfile("sRGB")
# A profile's colour space, and the modes of images that it can be of
SPACES = {"RGB ": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}
BRANDS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"heim": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
    b"avif": "AVIF",
    b"avis": "AVIF",
}
MAGIC = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"\0\0\1\0": "ICO",
    b"%PDF": "PDF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "PSD",
    b"<svg": "SVG",
    b"<?xml": "XML",
}


class Decoder:
    """One thread that vets, one upload at a time: the memory of a whole service is that of one.

    Tenants take turns.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        self.turn = asyncio.Semaphore(1)
        self.tenants: dict[uuid.UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.waiting = Counter[uuid.UUID]()

    async def run(self, tenant_id: uuid.UUID, work: Callable[[], T]) -> T:
        """The work's result. Problem: too_many_requests, when as many of the tenant's wait already."""
        if self.waiting[tenant_id] >= WAITING:
            text = f"{WAITING} uploads of yours are waiting to be looked at: send fewer at a time."
            raise Problem("too_many_requests", text, headers={"Retry-After": "10"})
        self.waiting[tenant_id] += 1
        try:
            async with self.tenants[tenant_id], self.turn:
                # Shielded: a thread cannot be stopped, and the next must not begin beside it.
                return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.thread, work))
        finally:
            self.waiting[tenant_id] -= 1
            if not self.waiting[tenant_id]:
                del self.waiting[tenant_id], self.tenants[tenant_id]


def named(head: bytes) -> str | None:
    """What the first bytes of a file say that it is."""
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "MP4")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def opened(path: Path, media_type: str) -> Image.Image:
    """The image, its header read and its pixels not; refuses what is no image, or another sort than the
    header says.
    """
    content = path.read_bytes()
    found = named(content[:16])
    if found == "JPEG" and content.count(SCAN) > MAX_SCANS:
        raise Problem("image_unusable", f"The JPEG has more than {MAX_SCANS} scans: save it anew.")
    try:
        with warnings.catch_warnings():
            # The size is checked below, before anything is decoded
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=["PNG", "JPEG", "WEBP"])
    except Image.DecompressionBombError as error:
        raise too_large() from error
    except Exception as error:  # a parser of hostile bytes may raise anything
        if found and found not in ("PNG", "JPEG", "WebP"):
            raise Problem(
                "not_an_image",
                f"The bytes are no PNG, JPEG or WebP image but {found}: save the picture as one of them.",
            ) from error
        what = (
            f"The {found} image is broken or ends early"
            if found
            else "The bytes are no PNG, JPEG or WebP image"
            if content
            else "The body is empty"
        )
        raise Problem("not_an_image", f"{what}: send a whole PNG, JPEG or WebP file.") from error
    if image.format not in FORMATS[media_type]:
        raise Problem(
            "not_an_image",
            f"The bytes are {image.format}, the Content-Type says {media_type}: send the true one.",
        )
    return image


def too_large() -> Problem:
    return Problem("image_unusable", f"The image has more than {MAX_SIDE} px a side: make it smaller.")


def check(image: Image.Image) -> None:
    """Refuse by what the header says: too large, too small, animated."""
    if max(image.size) > MAX_SIDE:
        raise too_large()
    if min(image.size) < MIN_SIDE:
        raise Problem(
            "image_unusable",
            f"The image has {image.width} x {image.height} px; at least {MIN_SIDE} px a side are needed.",
        )
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise Problem("image_unusable", "The image is animated: send a still one.")


def eight_bits(image: Image.Image) -> Image.Image:
    """16 bits of grey as 8, which convert() would clip; palettes as the colours that they stand for; a colour
    that stands for clear as a channel of its own.
    """
    if image.mode.startswith("I"):
        grey = np.asarray(image) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.mode in ("1", "P", "PA"):
        return image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    if "transparency" in image.info:
        return image.convert("LA" if image.mode == "L" else "RGBA")
    return image


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours that the profile means.

    A profile that cannot be read, or is of another sort of image, is as none: sRGB.
    """
    if not profile:
        return image
    if image.mode == "LA":
        grey = in_srgb(image.getchannel("L"), profile)
        return Image.merge("LA", (grey, image.getchannel("A")))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode not in SPACES.get(source.profile.xcolor_space, ()):
            return image
        becomes = image.mode if image.mode in ("RGB", "RGBA") else "RGB"
        transform = ImageCms.buildTransform(source, SRGB, image.mode, becomes)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    if becomes == image.mode:
        ImageCms.applyTransform(image, transform, inPlace=True)
        return image
    moved = ImageCms.applyTransform(image, transform)
    return moved.convert("L") if image.mode == "L" else moved


def opaque(image: Image.Image) -> Image.Image:
    """Grey or RGB, transparent parts on white; in strips, as a copy of the whole in four channels is what
    costs.
    """
    if not image.has_transparency_data:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    flat = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height))).convert("RGBA")
        flat.paste(strip, (0, top), strip)
    return flat


def clean(path: Path, media_type: str) -> dict[str, Any]:
    """Put a plain PNG in the upload's place; its width, height, and the share of its pixels that a mask would
    keep.

    In memory at once: the upload, two images of its size at most, and what libjpeg or libwebp holds of one.
    """
    with opened(path, media_type) as image:
        check(image)
        try:
            image.load()
            profile, turned = image.info.get("icc_profile"), image
            ImageOps.exif_transpose(turned, in_place=True)
            fresh = opaque(in_srgb(eight_bits(turned), profile))
        except Exception as error:
            raise Problem(
                "not_an_image", "The image is broken or ends early: save it anew, and send the whole file."
            ) from error
        fresh.info = {}  # pixels alone: no profile, no text, no EXIF
        fresh.save(path, format="PNG", exif=b"", compress_level=4)
        light = sum((fresh if fresh.mode == "L" else fresh.convert("L")).histogram()[128:])
        return {"width": fresh.width, "height": fresh.height, "light": light / (fresh.width * fresh.height)}

"""Check an uploaded image and re-encode it: as a PNG in sRGB, without metadata.

The header is checked before any pixel is decoded, so that a hostile file cannot take unbounded memory.
"""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from expunge.api.problems import Problem

# MPO: a JPEG followed by further pictures, as phones make them
FORMATS = {"image/png": ("PNG",), "image/jpeg": ("JPEG", "MPO"), "image/webp": ("WEBP",)}
ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
MEDIA_TYPES = tuple(FORMATS)
STORED = "image/png"
MAX_BYTES = 10 << 20
MIN_SIDE, MAX_SIDE = 32, 4096  # pixels
# Each scan of a progressive JPEG decodes the whole picture; ten are usual
SCAN, MAX_SCANS = (b"\xff\xda", 200)
STRIP = 256  # rows that are flattened at a time
SRGB = ImageCms.createProfile("sRGB")
# A profile's colour space -> the modes of images that it can describe
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


def sniff_format(head: bytes) -> str | None:
    """The name of a file's format, by its first bytes."""
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "MP4")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def open_image(path: Path, media_type: str) -> Image.Image:
    """The image, with its header read but not its pixels.

    Raises: Problem `not_an_image` where it is none, or not of this media type; `image_unusable`.
    """
    content = path.read_bytes()
    found = sniff_format(content[:16])
    if found == "JPEG" and content.count(SCAN) > MAX_SCANS:
        raise Problem("image_unusable", f"The JPEG has more than {MAX_SCANS} scans: save it again.")
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
                f"The bytes are {found}, not PNG, JPEG or WebP: convert the picture to one of these.",
            ) from error
        what = "The body is empty"
        if found:
            what = f"The {found} image is damaged or ends early"
        elif content:
            what = "The bytes are not PNG, JPEG or WebP"
        raise Problem("not_an_image", f"{what}: send a complete PNG, JPEG or WebP file.") from error
    if image.format not in FORMATS[media_type]:
        raise Problem(
            "not_an_image",
            f"The bytes are {image.format}, but the Content-Type is {media_type}: send the matching one.",
        )
    return image


def too_large() -> Problem:
    return Problem("image_unusable", f"The image has a side of more than {MAX_SIDE} px: make it smaller.")


def check_header(image: Image.Image) -> None:
    """Raises: Problem `image_unusable` for an image that is too large, too small or animated."""
    if max(image.size) > MAX_SIDE:
        raise too_large()
    if min(image.size) < MIN_SIDE:
        raise Problem(
            "image_unusable",
            f"The image has {image.width} x {image.height} px: each side must have at least {MIN_SIDE} px.",
        )
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise Problem("image_unusable", "The image is animated: send a still image.")


def to_eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits for each channel, without a palette, and with transparency as an alpha channel.

    16-bit grey is scaled, as convert() would clip it.
    """
    if image.mode.startswith("I"):
        grey = np.asarray(image) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.mode in ("1", "P", "PA"):
        return image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    if "transparency" in image.info:
        return image.convert("LA" if image.mode == "L" else "RGBA")
    return image


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image with its colour profile applied.

    A profile that cannot be read, or describes another kind of image, is ignored: the image is then sRGB.
    """
    if not profile:
        return image
    if image.mode == "LA":
        grey = to_srgb(image.getchannel("L"), profile)
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


def flatten(image: Image.Image) -> Image.Image:
    """The image in grey or RGB, with transparent parts on white.

    Done in strips: a copy of the whole image with four channels would take the most memory of all.
    """
    if not image.has_transparency_data:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    flat = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height))).convert("RGBA")
        flat.paste(strip, (0, top), strip)
    return flat


def check_and_reencode(path: Path, media_type: str) -> dict[str, Any]:
    """Replace the upload by a plain PNG; returns its width, height, and the share of light pixels ("light").

    A mask keeps the light pixels. In memory at once are the upload, at most two images of its size, and what
    libjpeg or libwebp needs for one.
    Raises: Problem `not_an_image` or `image_unusable`.
    """
    with open_image(path, media_type) as image:
        check_header(image)
        try:
            image.load()
            profile, turned = image.info.get("icc_profile"), image
            ImageOps.exif_transpose(turned, in_place=True)
            fresh = flatten(to_srgb(to_eight_bits(turned), profile))
        except Exception as error:
            raise Problem(
                "not_an_image",
                "The image is damaged or ends early: save it again, and send the complete file.",
            ) from error
        fresh.info = {}  # only pixels: no profile, no text, no EXIF
        fresh.save(path, format="PNG", exif=b"", compress_level=4)
        light = sum((fresh if fresh.mode == "L" else fresh.convert("L")).histogram()[128:])
        return {"width": fresh.width, "height": fresh.height, "light": light / (fresh.width * fresh.height)}

"""Vet an uploaded image without torch: header first, then bounded decoding, then a PNG of our own without metadata."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from api.problems import Problem

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
MEDIA_TYPES = tuple(FORMATS)
STORED = "image/png"
MAX_BYTES = 10 << 20
MIN_SIDE, MAX_SIDE = 32, 4096  # pixels


def opened(path: Path, media_type: str) -> Image.Image:
    """The image, its header read and its pixels not; refuses what is no image, or another sort than the header says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below, before anything is decoded
            image = Image.open(path, formats=list(FORMATS.values()))
    except Image.DecompressionBombError as error:
        raise too_large() from error
    except Exception as error:  # a parser of hostile bytes may raise anything
        raise Problem("not_an_image", f"The bytes are no PNG, JPEG or WebP image ({type(error).__name__}).") from error
    if image.format != FORMATS[media_type]:
        raise Problem("not_an_image", f"The bytes are {image.format}, the Content-Type says {media_type}: send the true one.")
    return image


def too_large() -> Problem:
    return Problem("image_unusable", f"The image has more than {MAX_SIDE} px a side: make it smaller.")


def check(image: Image.Image) -> None:
    """Refuse by what the header says: too large, too small, animated."""
    if max(image.size) > MAX_SIDE:
        raise too_large()
    if min(image.size) < MIN_SIDE:
        raise Problem("image_unusable", f"The image has {image.width} x {image.height} px; at least {MIN_SIDE} px a side are needed.")
    if getattr(image, "n_frames", 1) > 1:
        raise Problem("image_unusable", "The image is animated: send a still one.")


def plain(image: Image.Image) -> Image.Image:
    """Upright, 8 bits, grey or RGB, transparent parts on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
        grey = np.asarray(image, dtype=np.int64) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def clean(path: Path, media_type: str) -> dict[str, Any]:
    """Put a plain PNG in the upload's place; its width, height, and the share of its pixels that a mask would keep."""
    with opened(path, media_type) as image:
        check(image)
        try:
            image.load()
            image = plain(image)
        except Exception as error:
            raise Problem("not_an_image", f"The image is broken or ends early ({type(error).__name__}).") from error
    fresh = Image.fromarray(np.asarray(image))  # pixels alone: no profile, no text, no EXIF
    fresh.save(path, format="PNG")
    light = float((np.asarray(fresh.convert("L")) >= 128).mean())
    return {"width": fresh.width, "height": fresh.height, "light": light}

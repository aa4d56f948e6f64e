"""Before and after, side by side: which pictures to show, grid.png, and pictures as data: URIs for the
page.
"""

import base64
import io
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.report import Evaluation

TILE, GAP, LABEL, MARGIN, ROW = 112, 6, 150, 20, 8
INK, FAINT, PAPER = "#1f2328", "#6a737d", "#ffffff"


def shown(pictures: list[Picture], concept: str, count: int) -> list[int]:
    """Rows of a concept's first pictures."""
    return [i for i, p in enumerate(pictures) if p.concept == concept][:count]


def thumbnail(image: np.ndarray[Any, Any], size: int) -> Image.Image:
    """A square of `size` pixels; small pictures are enlarged smoothly."""
    return Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)


def written(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text as the font can draw it: where it lacks a sign, by the letter without its marks, else by its
    code point.
    """
    lacking = bytes(font.getmask("\U0010fffe"))

    def drawn(sign: str) -> bool:
        return sign.isspace() or bytes(font.getmask(sign)) != lacking

    def instead(sign: str) -> str:
        bare = "".join(c for c in unicodedata.normalize("NFKD", sign) if not unicodedata.combining(c))
        return bare if bare and all(map(drawn, bare)) else f"[U+{ord(sign):04X}]"

    return "".join(sign if drawn(sign) else instead(sign) for sign in text)


def data_uri(image: np.ndarray[Any, Any], limit: int = 192) -> str:
    """A data: URI; PNG up to `limit` pixels, above that a reduced JPEG, so that the page stays small."""
    picture, stream = Image.fromarray(image), io.BytesIO()
    if max(picture.size) <= limit:
        picture.save(stream, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((limit, limit), Image.Resampling.LANCZOS)
        picture.save(stream, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def draw_grid(evaluation: Evaluation, file: Path, max_concepts: int = 6) -> Path:
    """grid.png: for each erased concept a row before, a row after and, of a hidden one, a row with the
    recovery key; then the preserved concepts.
    """
    report, pictures = evaluation.report, evaluation.pictures
    sections = [(name, shown(pictures, name, ROW)) for name in report.erased[:max_concepts]]
    kept = [shown(pictures, name, 1)[0] for name in report.preserved]
    sections += [("preserved", kept[i : i + ROW]) for i in range(0, min(len(kept), 2 * ROW), ROW)]
    columns = max(len(rows) for _, rows in sections)
    lines: list[tuple[str, Mapping[int, Any]]] = [
        ("before", dict(enumerate(evaluation.base))),
        ("after", dict(enumerate(evaluation.sanitized))),
    ]
    lines += [("with the key", evaluation.recovered)] if evaluation.recovered else []
    section_height = len(lines) * (TILE + GAP) + 44
    width, height = LABEL + columns * (TILE + GAP) + MARGIN, MARGIN + len(sections) * section_height
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    bold, small = ImageFont.load_default(size=16), ImageFont.load_default(size=12)
    for s, (name, rows) in enumerate(sections):
        top = MARGIN + s * section_height
        title = name if name == "preserved" else f"changed: {name}"
        pen.text((MARGIN, top - 12), written(title, bold), fill=INK, font=bold)
        for line, (when, images) in enumerate(lines):
            if rows[0] not in images:
                continue
            y = top + 14 + line * (TILE + GAP)
            pen.text((MARGIN, y + TILE // 2 - 8), when, fill=FAINT, font=small)
            for column, i in enumerate(rows):
                x = LABEL + column * (TILE + GAP)
                canvas.paste(thumbnail(images[i], TILE), (x, y))
                if name == "preserved" and line == 0:
                    pen.text(
                        (x, y - 15), written(pictures[i].concept[:18], small)[:18], fill=FAINT, font=small
                    )
    canvas.save(file, "PNG", optimize=True)
    return file

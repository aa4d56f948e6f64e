"""Before and after, side by side: grid.png, and pictures as data: URIs for the page."""

import base64
import io
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.report import Evaluation

TILE, GAP, LABEL, MARGIN = 112, 6, 150, 20  # pixels: of a picture, between two, left of a row, around all
ROW = 8  # pictures beside each other
INK, FAINT, PAPER = "#1f2328", "#6a737d", "#ffffff"
PRESERVED = "preserved"
Rows = Mapping[int, np.ndarray[Any, Any]]  # row of the pictures -> a model's picture


def first_rows(pictures: Sequence[Picture], concept: str, count: int) -> list[int]:
    """The rows of a concept's first pictures."""
    return [i for i, picture in enumerate(pictures) if picture.concept == concept][:count]


def make_thumbnail(image: np.ndarray[Any, Any], size: int) -> Image.Image:
    """A square of `size` pixels; small pictures are enlarged smoothly."""
    return Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)


def make_printable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text with every character that the font lacks replaced: by the letter without its marks, or else by
    its code point.
    """
    missing = bytes(font.getmask("\U0010fffe"))

    def has(character: str) -> bool:
        return character.isspace() or bytes(font.getmask(character)) != missing

    def replacement(character: str) -> str:
        bare = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
        return bare if bare and all(map(has, bare)) else f"[U+{ord(character):04X}]"

    return "".join(character if has(character) else replacement(character) for character in text)


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
    recovery key; then one picture of each preserved concept.
    """
    report, pictures = evaluation.report, evaluation.pictures

    # Which pictures stand in which section, and which lines a section has
    sections = [(name, first_rows(pictures, name, ROW)) for name in report.erased[:max_concepts]]
    preserved = [first_rows(pictures, name, 1)[0] for name in report.preserved]
    sections += [(PRESERVED, preserved[i : i + ROW]) for i in range(0, min(len(preserved), 2 * ROW), ROW)]
    lines: list[tuple[str, Rows]] = [
        ("before", dict(enumerate(evaluation.base))),
        ("after", dict(enumerate(evaluation.sanitized))),
    ]
    if evaluation.recovered:
        lines.append(("with the key", evaluation.recovered))

    # The canvas: sections below each other
    columns = max(len(rows) for _, rows in sections)
    section_height = len(lines) * (TILE + GAP) + 44
    size = LABEL + columns * (TILE + GAP) + MARGIN, MARGIN + len(sections) * section_height
    canvas = Image.new("RGB", size, PAPER)
    for place, (name, rows) in enumerate(sections):
        draw_section(canvas, MARGIN + place * section_height, name, rows, lines, pictures)
    canvas.save(file, "PNG", optimize=True)
    return file


def draw_section(
    canvas: Image.Image,
    top: int,
    name: str,
    rows: Sequence[int],
    lines: Sequence[tuple[str, Rows]],
    pictures: Sequence[Picture],
) -> None:
    """A heading, and below it a line of pictures for each of `lines`; over preserved ones their names."""
    pen = ImageDraw.Draw(canvas)
    bold, small = ImageFont.load_default(size=16), ImageFont.load_default(size=12)
    title = name if name == PRESERVED else f"changed: {name}"
    pen.text((MARGIN, top - 12), make_printable(title, bold), fill=INK, font=bold)
    for number, (when, images) in enumerate(lines):
        if rows[0] not in images:
            continue  # only hidden concepts are drawn with a key, and only by their templates
        y = top + 14 + number * (TILE + GAP)
        pen.text((MARGIN, y + TILE // 2 - 8), when, fill=FAINT, font=small)
        for column, row in enumerate(rows):
            x = LABEL + column * (TILE + GAP)
            if row not in images:
                continue
            canvas.paste(make_thumbnail(images[row], TILE), (x, y))
            if name == PRESERVED and number == 0:
                label = make_printable(pictures[row].concept[:18], small)[:18]
                pen.text((x, y - 15), label, fill=FAINT, font=small)

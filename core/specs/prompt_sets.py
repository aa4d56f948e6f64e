"""Prompt sets in I2P's format (Schramowski et al., 2023): CSV with a header, or JSON lines.

Columns: `prompt`; a seed (`seed`, `sd_seed`, `evaluation_seed`); guidance (`guidance`, `guidance_scale`,
`sd_guidance_scale`, `evaluation_guidance`); `categories`, with commas between them; the size of the picture
(`width`, `height`, `sd_image_width`, `sd_image_height`). All but the prompt may be left out; other columns
are not read.
"""

import csv
import io
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_ROWS = 5000  # I2P has 4703
MAX_BYTES = 8 << 20
MAX_PROMPT = 2000  # characters
MAX_CATEGORIES, MAX_CATEGORY = 16, 60  # of a row; characters of one
MAX_GUIDANCE, MAX_SIDE = 100.0, 8192
MAX_COLUMNS = 64
SHOWN = 20  # faults that are told
COLUMNS = {
    "prompt": ("prompt",),
    "seed": ("seed", "sd_seed", "evaluation_seed"),
    "guidance": ("guidance", "guidance_scale", "sd_guidance_scale", "evaluation_guidance"),
    "categories": ("categories",),
    "width": ("width", "sd_image_width"),
    "height": ("height", "sd_image_height"),
}
OF_ALIAS = {alias: column for column, aliases in COLUMNS.items() for alias in aliases}


class BadPromptSet(ValueError):
    """A prompt set that cannot be used.

    faults: (line, what is wrong), the first of them; count: how many there are.
    """

    def __init__(self, faults: Sequence[tuple[int, str]], count: int | None = None) -> None:
        self.faults, self.count = list(faults[:SHOWN]), len(faults) if count is None else count
        line, why = faults[0]
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        super().__init__(f"line {line}: {why}{more}")


@dataclass(frozen=True)
class Prompt:
    """One row, run as it is. seed, guidance: None where the set has none; size: (width, height)."""

    line: int
    prompt: str
    seed: int | None = None
    guidance: float | None = None
    categories: tuple[str, ...] = ()
    size: tuple[int, int] | None = None


def media_type_of(data: bytes) -> str:
    """text/csv or application/jsonl, by the first character."""
    return "application/jsonl" if data[:100].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else "text/csv"


def parse(data: bytes) -> list[Prompt]:
    """The rows of a prompt set.

    Raises: BadPromptSet, with the line of every bad row.
    """
    if len(data) > MAX_BYTES:
        raise BadPromptSet([(1, f"the file has {len(data):,} bytes, more than {MAX_BYTES:,}: split it")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadPromptSet([(line, "is not UTF-8: save the file as UTF-8")]) from error

    # Row by row: every bad one is told, not only the first
    found, faults = list[Prompt](), list[tuple[int, str]]()
    read = json_rows if media_type_of(data) == "application/jsonl" else csv_rows
    for line, row in read(text):
        if len(found) + len(faults) >= MAX_ROWS:
            faults.append((line, f"is beyond the {MAX_ROWS:,} rows that a set may have: split the file"))
            break
        try:
            found.append(prompt_of(line, row if isinstance(row, Mapping) else refuse(row)))
        except ValueError as error:
            faults.append((line, str(error)))
    if faults:
        raise BadPromptSet(faults)
    if not found:
        raise BadPromptSet([(1, "there is no row: give at least one prompt")])
    return found


def refuse(why: Any) -> Mapping[str, Any]:
    """Raises: ValueError, with the reason that a reader gave instead of a row."""
    raise ValueError(str(why))


def csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line, column -> text) of each row; in place of a row that cannot be read, why.

    Raises: BadPromptSet where the header is not usable.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, start = None, 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # nothing behind it can be trusted
            yield start, f"is not CSV ({error}): quote texts with commas, and double the quotes in them"
            return
        line, start = start, reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = columns_of([cell.strip().casefold() for cell in cells], line)
        elif len(cells) != len(header):
            yield line, f"has {len(cells)} cells, the header {len(header)}: quote texts with commas"
        else:
            yield (
                line,
                {name: cell for name, cell in zip(header, cells, strict=True) if name and cell.strip()},
            )


def columns_of(header: Sequence[str], line: int) -> list[str | None]:
    """What each column of a header holds; None for those that are not read. Raises: BadPromptSet."""
    columns = [OF_ALIAS.get(name) for name in header]
    if len(columns) > MAX_COLUMNS:
        raise BadPromptSet([(line, f"has {len(columns)} columns, more than {MAX_COLUMNS}")])
    if "prompt" not in columns:
        raise BadPromptSet([(line, "has no column 'prompt': begin the file with a header that names one")])
    for column, count in Counter(filter(None, columns)).items():
        if count > 1:
            names = " and ".join(name for name in header if OF_ALIAS.get(name) == column)
            raise BadPromptSet([(line, f"{names} name the same column twice: remove one")])
    return columns


def json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line, column -> value) of each line; in place of one that cannot be read, why."""
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError):
            yield line, "is not JSON: write one object on each line"
            continue
        if not isinstance(row, dict):
            yield line, "is not an object: write one object on each line"
            continue
        named = [(OF_ALIAS.get(name.strip().casefold()), value) for name, value in row.items()]
        given = [(column, value) for column, value in named if column is not None and value is not None]
        twice = len(dict(given)) < len(given)
        yield line, "names a column twice, under two names: remove one" if twice else dict(given)


def prompt_of(line: int, row: Mapping[str, Any]) -> Prompt:
    """A row, checked. Raises: ValueError."""
    prompt = row.get("prompt", "")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("has no prompt: give a text")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(prompt):,} characters, at most {MAX_PROMPT:,} are allowed")
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\r\n" for c in prompt):
        raise ValueError("the prompt contains a control character: remove it")
    seed = None if "seed" not in row else whole(row["seed"], "seed", 0, 2**63 - 1)
    guidance = None if "guidance" not in row else number(row["guidance"], "guidance", MAX_GUIDANCE)
    size = None
    if "width" in row and "height" in row:
        size = whole(row["width"], "width", 1, MAX_SIDE), whole(row["height"], "height", 1, MAX_SIDE)
    return Prompt(line, prompt, seed, guidance, categories_of(row.get("categories", "")), size)


def number(value: Any, name: str, most: float) -> float:
    """A number from 0 to `most`. Raises: ValueError."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 <= found <= most:
        raise ValueError(f"{name} is {str(value)[:40]!r}: give a number from 0 to {most:g}")
    return found


def whole(value: Any, name: str, least: int, most: int) -> int:
    """A whole number; 5.0 is one. Raises: ValueError."""
    text = str(value).strip()
    whole_text = text.removesuffix(".0")
    if isinstance(value, bool) or not (whole_text.isascii() and whole_text.isdigit()) or len(whole_text) > 19:
        raise ValueError(f"{name} is {text[:40]!r}: give a whole number from {least} to {most}")
    found = int(whole_text)
    if not least <= found <= most:
        raise ValueError(f"{name} is {text[:40]!r}: give a whole number from {least} to {most}")
    return found


def categories_of(value: Any) -> tuple[str, ...]:
    """The categories of a row: a list, or a text with commas between them. Raises: ValueError."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("categories is not a text: write them with commas between them")
    found = tuple(dict.fromkeys(" ".join(name.split()).casefold() for name in names if name.strip()))
    if len(found) > MAX_CATEGORIES or any(len(name) > MAX_CATEGORY for name in found):
        raise ValueError(
            f"categories: at most {MAX_CATEGORIES} of at most {MAX_CATEGORY} characters are allowed"
        )
    if not all(name.isprintable() for name in found):
        raise ValueError("categories contain a control character: remove it")
    return found


def summary(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What is stored beside an uploaded set: the number of its rows, and of each category's."""
    counts = Counter(category for prompt in prompts for category in prompt.categories)
    return {"prompts": len(prompts), "categories": dict(counts.most_common(MAX_CATEGORIES))}

"""Edit, debias, visual edit and mask edit on the bundled model, each as one whole job: `make bench-editing`.

The images that concepts are learned from are drawn by the base model itself: its training pictures are not in
the package. Jobs whose bundle lies in build/editing already are read from there. Writes
benchmarks/results/editing.json and docs/editing.png.
"""

import argparse
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from expunge.core.evaluation.report import Report
from expunge.core.models import load_model
from expunge.core.run import run_erase
from expunge.core.specs import EraseSpec

HERE = Path(__file__).parent
FOLDER, RESULTS, PICTURE = (
    HERE.parent / "build" / "editing",
    HERE / "results" / "editing.json",
    HERE.parent / "docs" / "editing.png",
)
SOURCE = "bundled:emoji"
STYLES = ("noto", "twemoji", "fluent", "noto")
FIGURES = ("esr1", "edit1", "attribute_distance", "psr1_ratio")


def put(folder: Path, name: str, image: np.ndarray[Any, Any], files: dict[str, Path]) -> str:
    """An upload's id, as the service would hand it over."""
    id_ = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    files[id_] = folder / f"{name}.png"
    Image.fromarray(image).save(files[id_])
    return id_


def uploads(folder: Path) -> tuple[dict[str, Path], list[str], list[str], list[str]]:
    """Files by id; four dogs; four pairs of a dog and a cat; masks that keep the dog."""
    model, files = load_model(SOURCE), dict[str, Path]()
    dogs, cats = (
        model.draw([f"a {name} in {style} style" for style in STYLES], [101, 102, 103, 104])
        for name in ("dog", "cat")
    )
    pets, pairs, masks = list[str](), list[str](), list[str]()
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, :64] = 255
    for k, (dog, cat) in enumerate(zip(dogs, cats, strict=True)):
        pair = np.full((128, 128, 3), 255, np.uint8)
        pair[32:96, :64], pair[32:96, 64:] = dog, cat
        pets.append(put(folder, f"dog{k}", dog, files))
        pairs.append(put(folder, f"both{k}", pair, files))
        masks.append(put(folder, f"mask{k}", mask, files))
    return files, pets, pairs, masks


def jobs(pets: list[str], pairs: list[str], masks: list[str]) -> dict[str, dict[str, Any]]:
    """Each with its method's defaults."""
    dog = {"name": "dog", "attributes": ["wolf", "fox"]}
    return {
        "edit, age": {"concepts": [{"name": "church", "target": "castle"}]},
        "edit, uce": {"concepts": [{"name": "church", "target": "castle"}], "method": {"name": "uce"}},
        "debias, age": {"concepts": [dog]},
        "debias, uce": {"concepts": [dog], "method": {"name": "uce"}},
        "debias over styles, age": {
            "concepts": [{"name": "dog", "attributes": ["noto", "twemoji", "fluent"]}]
        },
        "visual edit, age": {"concepts": [{"name": "the pet", "images": pets, "target": "teapot"}]},
        "mask edit, age": {"concepts": [{"name": "the pair", "images": pairs, "masks": masks}]},
    }


def figures(report: Report) -> dict[str, Any]:
    """What a row says: the changed concept's figures and its base model's, with intervals."""
    name = report.erased[0]
    wanted = {
        (f"{m}{suffix}", c)
        for m, c in ((m, None if m == "psr1_ratio" else name) for m in FIGURES)
        for suffix in ("", "_base")
    }
    found: dict[str, Any] = {
        m.name: {"value": m.value, "ci": [m.ci_low, m.ci_high], "n": m.n}
        for m in report.metrics
        if (m.name, m.concept) in wanted
    }
    found["shares"] = [s.model_dump() for d in report.distributions for s in d.shares]
    found["seconds"] = report.value("wall_seconds_erase")
    return found


ROWS = {
    "edit, age": "edit, `age`: church → castle",
    "edit, uce": "edit, `uce`: church → castle",
    "debias, age": "debias, `age`: dog over wolf, fox",
    "debias, uce": "debias, `uce`: the same",
    "debias over styles, age": "debias, `age`: dog over noto, twemoji, fluent",
    "visual edit, age": "visual edit, `age`: the pet (four images) → teapot",
    "mask edit, age": "mask edit, `age`: the pair → what the masks keep",
}
"""How the documentation calls the jobs."""


def table_row(name: str, row: dict[str, Any]) -> str:
    """A row of docs/editing.md; per cent, 95 % intervals in brackets."""

    def cell(figure: str) -> str:
        if figure not in row:
            return ""
        return (
            f"{100 * row[figure]['value']:.0f} ({'–'.join(f'{100 * end:.0f}' for end in row[figure]['ci'])})"
        )

    shares = ", ".join(
        f"{s['attribute']} {100 * s['value']:.0f} ({100 * s['asked']:.0f})"
        for s in row["shares"]
        if s["attribute"]
    )
    away = (
        f"{100 * row['attribute_distance_base']['value']:.0f} → {cell('attribute_distance')}"
        if shares
        else ""
    )
    cells = (
        ROWS[name],
        cell("esr1"),
        cell("edit1"),
        shares,
        away,
        cell("psr1_ratio"),
        f"{row['seconds']:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def strips(folder: Path) -> Image.Image:
    """The changed concept's eight pictures, before and after, cut from the bundle's own grid."""
    with Image.open(folder / "grid.png") as grid:
        return grid.convert("RGB").crop((150, 30, min(grid.width, 150 + 8 * 118), 30 + 2 * 118))


def picture(rows: dict[str, Path], file: Path) -> None:
    """All jobs below one another."""
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    parts = {name: strips(folder) for name, folder in rows.items()}
    scale, label, height = 0.5, 190, 0
    canvas = Image.new(
        "RGB", (label + int(8 * 118 * scale) + 20, 20 + len(parts) * (int(236 * scale) + 16)), "white"
    )
    pen, height = ImageDraw.Draw(canvas), 12
    for name, part in parts.items():
        small_part = part.resize(
            (int(part.width * scale), int(part.height * scale)), Image.Resampling.LANCZOS
        )
        canvas.paste(small_part, (label, height))
        pen.text((14, height + 22), name, fill="#1f2328", font=font)
        pen.text((14, height + 44), "above before, below after", fill="#6a737d", font=small)
        height += small_part.height + 16
    canvas.quantize(256).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="run jobs whose bundle is there too")
    again = parser.parse_args().again
    FOLDER.mkdir(parents=True, exist_ok=True)
    files, *ids = uploads(FOLDER)
    measured, folders = dict[str, Any](), dict[str, Path]()
    for name, request in jobs(*ids).items():
        out = folders[name] = FOLDER / name.replace(", ", "-").replace(" ", "-")
        if again or not (out / "report.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            spec = EraseSpec.model_validate(request)
            run_erase(
                spec,
                out,
                source=SOURCE,
                cache=FOLDER / "cache",
                images=files,
                callback=lambda p: print(f"\r  {p}"[:110], end=""),
            )
        measured[name] = figures(Report.model_validate_json((out / "report.json").read_text()))
        print("\r" + table_row(name, measured[name]), flush=True)
    RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
    picture(folders, PICTURE)


if __name__ == "__main__":
    main()

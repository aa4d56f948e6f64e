"""Stage 1: the pictures. npm packages -> build/model/data.npz, (concepts, styles, 64, 64, 3) uint8 on
white.
"""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from recipes.common import STYLES, WORK, concepts, log

SIZE = 64


def fetch(package: str) -> Path:
    """`npm pack` a pinned package and unpack it; a package that is there already is not fetched again."""
    folder = WORK / "npm" / package.replace("/", "_").replace("@", "_")
    if not (folder / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", package, "--pack-destination", str(folder), "--json"],
            check=True,
            capture_output=True,
            text=True,
        )
        archive = folder / json.loads(packed.stdout)[0]["filename"].replace("@", "").replace("/", "-")
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if m.isfile()]
            for m in members:
                m.name = m.name.split("/", 1)[1]
            tar.extractall(folder, members, filter="data")
        archive.unlink()
    return folder


def on_white(image: Image.Image) -> np.ndarray:
    """Composite on white and fit to SIZE x SIZE."""
    image = image.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def main() -> None:
    if (WORK / "data.npz").exists():
        return
    folders = {style: fetch(package) for style, (_, package, _) in STYLES.items()}
    emoji = {e["short_name"]: e for e in json.loads((folders["noto"] / "emoji.json").read_text())}
    chars = json.loads((folders["high contrast"] / "chars.json").read_text())
    icons = json.loads((folders["high contrast"] / "icons.json").read_text())

    def draw(style: str, e: dict) -> np.ndarray:
        codes = [e["unified"].lower(), (e["non_qualified"] or e["unified"]).lower()]
        if style in ("noto", "twemoji"):
            name = {"noto": "google", "twemoji": "twitter"}[style]
            return on_white(Image.open(folders[style] / f"img/{name}/64/{e['image']}"))
        if style == "fluent":
            return on_white(
                Image.open(next(p for c in codes if (p := folders[style] / f"assets/{c}.webp").exists()))
            )
        body = icons["icons"][next(chars[c] for c in codes if c in chars)]["body"]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" color="black">{body}</svg>'
        return on_white(
            Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256))))
        )

    names = concepts()
    pictures = np.stack(
        [np.stack([draw(style, emoji[short]) for style in STYLES]) for short in names.values()]
    )
    meta = {
        "concepts": list(names),
        "styles": list(STYLES),
        "subcategory": [emoji[s]["subcategory"] for s in names.values()],
    }
    np.savez_compressed(WORK / "data.npz", pictures=pictures, meta=json.dumps(meta))
    log("data", concepts=len(names), pictures=int(pictures.shape[0] * pictures.shape[1]))


def load() -> tuple[np.ndarray, dict]:
    """(concepts, styles, 64, 64, 3) uint8, and {"concepts", "styles", "subcategory"}."""
    file = np.load(WORK / "data.npz")
    return file["pictures"], json.loads(str(file["meta"]))


if __name__ == "__main__":
    main()

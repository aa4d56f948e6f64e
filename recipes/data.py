"""Stage 1: the pictures. npm packages -> build/model/data.npz, (concepts, styles, 64, 64, 3) uint8 on
white.
"""

import io
import json
import re
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


class Sources:
    """The unpacked packages, and what each style draws of an emoji."""

    def __init__(self) -> None:
        self.folders = {style: fetch(package) for style, (_, package, _) in STYLES.items()}
        listed = json.loads((self.folders["noto"] / "emoji.json").read_text())
        self.emoji = {e["short_name"]: e for e in listed}
        self.chars = json.loads((self.folders["high contrast"] / "chars.json").read_text())
        self.icons = json.loads((self.folders["high contrast"] / "icons.json").read_text())["icons"]

    def draw(self, style: str, short_name: str) -> np.ndarray | None:
        """One emoji in one style, (64, 64, 3) uint8; None where the style lacks it."""
        e, folder = self.emoji[short_name], self.folders[style]
        codes = [e["unified"].lower(), (e["non_qualified"] or e["unified"]).lower()]
        if style in ("noto", "twemoji"):
            name = {"noto": "google", "twemoji": "twitter"}[style]
            files = [folder / f"img/{name}/64/{e['image']}"]
        elif style == "fluent":
            files = [folder / f"assets/{c}.webp" for c in codes]
        else:
            icon = next((self.chars[c] for c in codes if c in self.chars), None)
            if icon is None:
                return None
            body = self.icons[icon]["body"]
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" color="black">{body}</svg>'
            png = resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256)
            return on_white(Image.open(io.BytesIO(bytes(png))))
        file = next((f for f in files if f.exists()), None)
        return None if file is None else on_white(Image.open(file))


def main() -> None:
    if (WORK / "data.npz").exists():
        return
    sources, names = Sources(), concepts()
    pictures = np.stack(
        [np.stack([sources.draw(style, short) for style in STYLES]) for short in names.values()]
    )
    meta = {
        "concepts": list(names),
        "styles": list(STYLES),
        "subcategory": [sources.emoji[s]["subcategory"] for s in names.values()],
    }
    np.savez_compressed(WORK / "data.npz", pictures=pictures, meta=json.dumps(meta))
    log("data", concepts=len(names), pictures=int(pictures.shape[0] * pictures.shape[1]))


def others(categories: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Emoji of these Unicode categories that are not in the vocabulary, in every style that has them,
    (N, 64, 64, 3) uint8, and the short name of each. Left out: names that share a word with a concept.
    """
    known = {word for pair in concepts().items() for name in pair for word in words(name)}
    sources, pictures, names = Sources(), [], []
    for short, e in sources.emoji.items():
        if e["category"] not in categories or known & (words(short) | words(e["name"] or "")):
            continue
        drawn = [sources.draw(style, short) for style in STYLES]
        pictures += [picture for picture in drawn if picture is not None]
        names += [short] * sum(picture is not None for picture in drawn)
    return np.stack(pictures), names


def words(name: str) -> set[str]:
    """The words of a name, without digits: 'dog2' is a dog."""
    return set(re.findall(r"[a-z]{3,}", name.lower()))


def load() -> tuple[np.ndarray, dict]:
    """(concepts, styles, 64, 64, 3) uint8, and {"concepts", "styles", "subcategory"}."""
    file = np.load(WORK / "data.npz")
    return file["pictures"], json.loads(str(file["meta"]))


if __name__ == "__main__":
    main()

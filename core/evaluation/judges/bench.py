"""Who judges a model's pictures: the judges that it brings, or the papers'."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.errors import CoreError
from expunge.core.evaluation.judges.classifier import RESNET50, Classifier, load_classifier
from expunge.core.evaluation.judges.clip import VIT_B_32, Clip, load_clip
from expunge.core.sources import folder_of, parse

BUNDLED = Path(__file__).parents[2] / "bundled" / "judges"


@dataclass(frozen=True)
class Judges:
    """Who judges a model's pictures; a judge that cannot be had is None and its reason is in `missing`.

    texts: where CLIP is to judge, what it must tell a concept from; None: its neighbours, and only where
    there is no class.
    """

    concept: Classifier | None
    style: Classifier | None
    clip: Clip | None
    missing: dict[str, str] = field(default_factory=dict)
    texts: list[str] | None = None

    def digests(self) -> dict[str, str]:
        return {
            f"{kind} ({judge.name})": judge.digest
            for kind, judge in (("concept", self.concept), ("style", self.style), ("clip", self.clip))
            if judge
        }


def judges_for(source: str | Path, device: str = "cpu") -> Judges:
    """The bundled judges for a bundled model, a folder's own `judges/` if it brings some, else the papers'
    ResNet-50 and ViT-B/32.
    """
    home = folder_of(source)
    own = home / "judges" if home else BUNDLED
    folder = BUNDLED if parse(source).kind == "bundled" else own if home and own.is_dir() else None
    wanted: dict[str, Callable[[], Any]] = {
        "concept": lambda: load_classifier(folder / "concept" if folder else RESNET50, device),
        "clip": lambda: load_clip(folder / "clip" if folder else VIT_B_32, device),
    }
    if folder and (folder / "style").is_dir():
        wanted["style"] = lambda: load_classifier(folder / "style", device)
    found: dict[str, Any] = {"concept": None, "style": None, "clip": None}
    missing = {}
    for kind, load in wanted.items():
        try:
            found[kind] = load()
        except CoreError as e:
            missing[kind] = e.message
    return Judges(**found, missing=missing)

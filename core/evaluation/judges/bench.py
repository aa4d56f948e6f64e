"""Who judges a model's pictures: the judges that it brings, or the papers'."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.errors import CoreError
from expunge.core.evaluation.judges.classifier import RESNET50, Classifier, load_classifier
from expunge.core.evaluation.judges.clip import VIT_B_32, Clip, load_clip
from expunge.core.evaluation.judges.uploaded import load_uploaded
from expunge.core.sources import folder_of, parse
from expunge.core.specs import JudgeSpec

BUNDLED = Path(__file__).parents[2] / "bundled" / "judges"


@dataclass(frozen=True)
class Judges:
    """Who judges a model's pictures; a judge that cannot be had is None and its reason is in `missing`.

    texts: where CLIP is to judge, what it must tell a concept from; None: its neighbours, and only where
    there is no class. uploaded: a client's own classifier, asked first. inception: the folder that
    brings Inception's weights; it is read where it is needed.
    """

    concept: Classifier | None
    style: Classifier | None
    clip: Clip | None
    missing: dict[str, str] = field(default_factory=dict)
    texts: list[str] | None = None
    uploaded: Classifier | None = None
    inception: Path | None = None

    def digests(self) -> dict[str, str]:
        return {
            f"{kind} ({judge.name})": judge.digest
            for kind, judge in (
                ("concept", self.concept),
                ("style", self.style),
                ("clip", self.clip),
                ("concept", self.uploaded),
            )
            if judge
        }


def judges_for(
    source: str | Path, device: str = "cpu", asked: JudgeSpec | None = None, file: Path | None = None
) -> Judges:
    """The bundled judges for a bundled model, a folder's own `judges/` if it brings some, else the papers'
    ResNet-50 and ViT-B/32.

    asked: the judge that a client asked for beside them, whose upload is `file`: it is asked first or, where
    it is a CLIP model, takes CLIP's place. Raises: CoreError where it cannot be used.
    """
    theirs = load_asked(asked, file, device) if asked is not None else None
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
    if isinstance(theirs, Clip):
        wanted["clip"] = lambda: theirs
    for kind, load in wanted.items():
        try:
            found[kind] = load()
        except CoreError as e:
            missing[kind] = e.message
    classifier = theirs if isinstance(theirs, Classifier) else None
    return Judges(
        **found,
        missing=missing,
        texts=asked.texts if asked else None,
        uploaded=classifier,
        inception=folder and folder / "inception",
    )


def load_asked(asked: JudgeSpec, file: Path | None, device: str) -> Classifier | Clip | None:
    """The judge that a client uploaded; None where it gave texts alone. Raises: CoreError."""
    if asked.artifact_id is None:
        return None
    if file is None:
        raise CoreError(
            "judge_unavailable",
            f"the uploaded judge {asked.artifact_id} is not here: give its file",
            field="evaluation.judge.artifact_id",
        )
    return load_uploaded(file, device)

"""The fused checkpoint: base weights with the delta merged in, as a diffusers folder in one uncompressed
zip, and as one file in the names of the model's authors.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from expunge.core import single_files, sources
from expunge.core.delivery import single_file
from expunge.core.delta_format import metadata
from expunge.core.errors import CoreError
from expunge.core.layouts import Layout, parts_of
from expunge.core.models import Denoiser
from expunge.core.published import SD1, SD2_512, SD2_768, XL_BASE
from expunge.core.tensors import not_finite, write

FILE, ROOT, SINGLE = "fused.zip", "fused", "fused.safetensors"
PUBLISHED = (SD1, SD2_512, SD2_768, XL_BASE)
ABOUT = ("modelspec.", "concept_erasure.")
OF_DELTA = (metadata.TENSORS_SHA256, metadata.DESCRIPTION, metadata.IMPLEMENTATION, metadata.KIND)
"""What a delta's metadata say of the delta itself."""
HINT = "The erasure is part of these weights: no LoRA is needed."


def stored_dtype(layout: Layout) -> torch.dtype:
    """The type the base model's own U-Net is stored in: fusing must not make the checkpoint larger."""
    file = next(name for name in layout.files if name.startswith("unet/") and name.endswith(".safetensors"))
    with safe_open(layout.folder / file, "pt") as f:
        return (
            torch.float16
            if f.get_slice(next(iter(f.keys()))).get_dtype() in ("F16", "BF16")
            else torch.float32
        )


def fuse(model: Denoiser, source: str, delta: Path, out: Path) -> Path:
    """Write `fused.zip`: unzip it and call DiffusionPipeline.from_pretrained("fused"); and
    `fused.safetensors`, for from_single_file and other tools. Same input, same bytes.

    Without the base model's safety checker, if it has one: it is no part of what was erased, and the card
    says so.
    """
    from expunge.core.models.pipelines import fused_pipeline  # here, as in load_model

    with tempfile.TemporaryDirectory(dir=out) as tmp:
        layout = sources.fetch(source)
        pipe = fused_pipeline(layout, delta)
        folder = Path(tmp) / ROOT
        pipe.to(dtype=stored_dtype(layout)).save_pretrained(folder, safe_serialization=True)
        if model.folder and (model.folder / "vocabulary.json").exists():
            shutil.copy(model.folder / "vocabulary.json", folder)
        for weights in sorted(folder.rglob("*.safetensors")):
            if (name := not_finite(weights)) is not None:  # what was finite apart may overflow together
                raise CoreError(
                    "weights_not_finite",
                    f"{FILE}: tensor '{name}' holds NaN or infinity: ask for no fused checkpoint",
                    field="fused",
                )
        for config in folder.rglob("*.json"):
            forget_path(config)
        weights_of, _ = parts_of(layout.pipeline)
        parts = {str(part): getattr(pipe, part).state_dict() for part in weights_of}
        write_single(parts, folder, delta, out / SINGLE)
        return pack(Path(tmp), out / FILE)


def write_single(parts: single_file.Parts, folder: Path, delta: Path, file: Path) -> None:
    """A pipeline's tensors in one file, in its authors' names; what the delta's metadata say of the erasure
    stands in its own, and of sizes that were never published the small files of its folder. No file where
    they have no such names.
    """
    tensors = single_file.renamed(parts)
    if tensors is None:
        return
    with safe_open(delta, "pt") as opened:
        told = {k: v for k, v in (opened.metadata() or {}).items() if k.startswith(ABOUT)}
    kind = told.get(metadata.ARCHITECTURE, "").partition("/")[0]
    about = {k: v for k, v in told.items() if k not in OF_DELTA}
    about |= {"format": "pt", metadata.ARCHITECTURE: kind, metadata.USAGE_HINT: HINT}
    if kind in (SD1, XL_BASE):
        tensors |= marks_of(json.loads((folder / "scheduler/scheduler_config.json").read_text()))
    if kind not in PUBLISHED:
        about[single_files.FOLDER_KEY] = json.dumps(
            {
                small.relative_to(folder).as_posix(): small.read_text(encoding="utf-8")
                for small in sorted(folder.rglob("*"))
                if small.suffix in (".json", ".txt")
            },
            ensure_ascii=False,
        )
    write(file, tensors, about)


def marks_of(schedule: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors by which the community marks a model whose names and sizes are those of one that predicts
    the noise: v_pred where it predicts v, ztsnr where the last timestep has no picture left.
    """
    marks = []
    if schedule.get("prediction_type") == "v_prediction":
        marks = ["v_pred", *(["ztsnr"] if schedule.get("rescale_betas_zero_snr") else [])]
    return {name: torch.zeros(0) for name in marks}


def forget_path(config: Path) -> None:
    """Take out of a diffusers config where the model lay on this machine."""
    content = json.loads(config.read_text())
    if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(content, indent=2) + "\n")


def pack(folder: Path, file: Path) -> Path:
    """The files of a folder moved into a zip without compression, in name order, with one fixed date."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            path.unlink()  # so that the disk holds it once
    return file

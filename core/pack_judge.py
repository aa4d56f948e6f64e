"""`expunge pack-judge FOLDER FILE`: a timm or open_clip folder as the one file that is uploaded as a judge.

Loads nothing, needs no torch: the weights are copied, the settings go into the file's metadata.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.core.delta_format.container import read_container
from expunge.core.delta_format.errors import BadDelta
from expunge.core.judge_format import (
    METADATA,
    BadJudge,
    ClipSettings,
    TimmSettings,
    read_settings,
    settings_of,
)

WEIGHTS = ("model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def pack(folder: Path, file: Path) -> None:
    """Write the file, and check it as the service will. Raises: BadJudge."""
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise BadJudge(f"'{folder}' has none of {', '.join(WEIGHTS)}: save its weights with safetensors")
    settings = settings_of(json.dumps(settings_in(folder)))
    try:
        read_container(weights)
    except BadDelta as error:
        raise BadJudge(f"'{weights.name}' {error.why}") from error
    # Beside the file, which may be one of the folder's own, until the service would take it
    partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        write(weights, settings, partial)
        read_settings(partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write(weights: Path, settings: TimmSettings | ClipSettings, file: Path) -> None:
    """The weights, with the settings in their metadata."""
    with weights.open("rb") as old, file.open("wb") as new:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        header["__metadata__"] = {METADATA: settings.model_dump_json(exclude_none=True)}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new)


def settings_in(folder: Path) -> Any:
    """The settings of open_clip's open_clip_config.json; of timm's config.json, as its `save_for_hf` writes
    it, or as core/bundled/judges have it. Raises: BadJudge.
    """
    try:
        if (folder / "open_clip_config.json").is_file():
            return json.loads((folder / "open_clip_config.json").read_text())
        config = json.loads((folder / "config.json").read_text())
    except OSError as error:
        raise BadJudge(f"'{folder}' has neither config.json nor open_clip_config.json") from error
    except ValueError as error:
        raise BadJudge(f"'{folder}' has a configuration that is not JSON: {str(error)[:200]}") from error
    if "pretrained_cfg" not in config:
        return {name: value for name, value in config.items() if name != "none_of_these"}
    return timm_settings(config)


def timm_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings in a config.json of timm's own."""
    if config.get("model_args"):
        raise BadJudge(
            "has model_args in its config.json: only a timm architecture by its name can be loaded"
        )
    prepared = config["pretrained_cfg"]
    for name in ("input_size", "crop_pct"):  # the size that its weights are measured at, where timm names one
        prepared[name] = prepared.get(f"test_{name}") or prepared.get(name)
    names, described = config.get("label_names"), config.get("label_descriptions") or {}
    if not names:
        raise BadJudge(
            "has no label_names in its config.json: add the list of its classes, in the order of its logits"
        )
    for name, given in (("architecture", config.get("architecture")), ("input_size", prepared["input_size"])):
        if not given:
            raise BadJudge(f"has no {name} in its config.json: add it, as timm's save_for_hf writes it")
    channels, *sides = prepared["input_size"]
    if channels != 3 or len(set(sides)) != 1:
        raise BadJudge(f"takes pictures of {prepared['input_size']}: only square ones in RGB can be shown it")
    classes = [str(described.get(name, name)).split(",")[0] for name in names]
    kept = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    return {
        "architecture": config["architecture"],
        "classes": classes,
        "input_size": sides[0],
        **{name: prepared[name] for name in kept if prepared.get(name) is not None},
    }


def main(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="A timm or open_clip model's folder.")
    ],
    file: Annotated[Path, typer.Argument(dir_okay=False, help="The safetensors file to write.")],
) -> None:
    """Pack a judge of your own into one file: upload it, and name it as evaluation.judge.artifact_id.

    Exit code 1 when it cannot be used.
    """
    try:
        pack(folder, file)
    except BadJudge as error:
        typer.secho(f"✗ {error.message}", fg="red", err=True)
        sys.exit(1)
    typer.secho(f"✓ {file}: {file.stat().st_size} bytes", fg="green")


if __name__ == "__main__":
    typer.run(main)

"""An uploaded judge: one safetensors file, whose metadata says what network its tensors are.

Checked without torch, by the api when it is uploaded and by core before it is loaded. The settings are a
closed list: no name in them can make a library fetch or read another file.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expunge.core.delta_format.container import FLOATS, Container, read_container
from expunge.core.delta_format.errors import BadDelta
from expunge.core.errors import CoreError

METADATA = "expunge_judge"
COUNTERS = ("I64", "I32", "BOOL")  # of batch norm, and fixed masks
MAX_CLASSES = 20_000

Size = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=1, le=64)]
Side = Annotated[int, Field(ge=16, le=1024)]
Colour = Annotated[list[float], Field(min_length=3, max_length=3)]
Deviation = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Interpolation = Literal["bilinear", "bicubic", "nearest"]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TimmSettings(Settings):
    """A timm classifier: its name in timm, which fixes its activation; its `classes` in the order of its
    logits; how a picture is prepared.
    """

    architecture: str = Field(pattern=r"^[a-z0-9_]{1,80}$")
    classes: list[ClassName] = Field(min_length=2, max_length=MAX_CLASSES)
    input_size: Side
    mean: Colour
    std: Deviation
    interpolation: Interpolation = "bicubic"
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    crop_mode: Literal["center", "squash", "border"] = "center"


class VisionSettings(Settings):
    image_size: Side
    layers: Depth | Annotated[list[Depth], Field(min_length=4, max_length=4)]
    width: Size
    patch_size: Size | None = None
    head_width: Size = 64
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0


class TextSettings(Settings):
    context_length: Annotated[int, Field(ge=4, le=512)]
    vocab_size: Literal[49408] = 49408  # of CLIP's own tokenizer, the one that needs no file
    width: Size
    heads: Depth
    layers: Depth


class ClipModel(Settings):
    """quick_gelu: the activation of OpenAI's weights, and of a few others."""

    embed_dim: Size
    quick_gelu: bool = False
    vision_cfg: VisionSettings
    text_cfg: TextSettings


class Preprocessing(Settings):
    mean: Colour
    std: Deviation
    size: int | list[int] | None = None  # open_clip writes it; the model's image_size counts
    mode: Literal["RGB"] = "RGB"
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0


class ClipSettings(Settings):
    """An open_clip model: the contents of its open_clip_config.json."""

    model_cfg: ClipModel
    preprocess_cfg: Preprocessing


class BadJudge(CoreError):
    """A file that is not a judge that can be used."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__("bad_judge", f"the judge {why}", field="evaluation.judge.artifact_id")


def is_judge(file: Container) -> bool:
    """Whether a safetensors file says that it is a judge."""
    return METADATA in file.metadata


def read_settings(path: Path, max_header: int | None = None) -> TimmSettings | ClipSettings:
    """Check the container, its settings, and that every tensor is finite. Raises: BadJudge."""
    try:
        file = read_container(path, max_header)
    except BadDelta as error:
        raise BadJudge(f"{error.why}: save it with safetensors") from error
    if not is_judge(file):
        raise BadJudge(f"has no metadata {METADATA}: make the file with 'expunge pack-judge FOLDER FILE'")
    settings = settings_of(file.metadata[METADATA])
    check_tensors(file)
    return settings


def check_tensors(file: Container) -> None:
    """Raises: BadJudge where a tensor is of a type that no network has, or is not finite."""
    for name, entry in file.tensors.items():
        if entry.dtype not in (*FLOATS, *COUNTERS):
            raise BadJudge(
                f"has a tensor '{name[:200]}' of type {entry.dtype}: save it as float16 or float32"
            )
        if entry.dtype in FLOATS and not file.is_finite(name):
            raise BadJudge(f"has NaN or infinity in '{name[:200]}': send finite weights")


def settings_of(text: str) -> TimmSettings | ClipSettings:
    """What the metadata says of the network. Raises: BadJudge."""
    try:
        found = json.loads(text)
        kind = ClipSettings if isinstance(found, dict) and "model_cfg" in found else TimmSettings
        return kind.model_validate_json(text)
    except ValidationError as error:
        fault: Any = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in fault["loc"])
        name = "an open_clip model" if kind is ClipSettings else "a timm classifier"
        raise BadJudge(
            f"has settings that are not those of {name}: {field or 'the JSON'}: {fault['msg'][:200]}."
            " docs/your-own-model.md lists them"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadJudge(f"has metadata {METADATA} that is not JSON: {str(error)[:200]}") from error

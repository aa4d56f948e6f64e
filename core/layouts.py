"""What a model's folder is, and whether it loads: looked at by its file names, JSON files and tensor headers
alone, without torch.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from expunge.core.errors import CoreError
from expunge.core.layout_checks import (
    INDEX,
    XL,
    Part,
    check_parts,
    check_pipeline,
    check_scheduler,
    refuse,
)

WEIGHTS: dict[Part, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
WEIGHTS_XL: dict[Part, str] = WEIGHTS | {"text_encoder_2": "model"}
PREFERRED = ("fp16", "bf16", "fp32")  # where there is no plain file, and several variants
SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
OTHER_WEIGHTS = {
    ".bin": "pickle",
    ".ckpt": "pickle",
    ".pt": "pickle",
    ".pth": "pickle",
    ".msgpack": "Flax",
    ".h5": "TensorFlow",
    ".onnx": "ONNX",
    ".gguf": "GGUF",
}


@dataclass(frozen=True)
class Layout:
    """A folder that loads. `variants` says which weights of a part are read; `files` are the names, relative
    to the folder, of all that decides what the model draws; `pipeline` and `scheduler` are classes in
    diffusers.
    """

    folder: Path
    architecture: str
    pipeline: str
    variants: dict[Part, str | None]
    files: tuple[str, ...]
    scheduler: str


def look(folder: Path) -> Layout:
    """The layout of a diffusers folder; CoreError `model_not_supported`, `model_incomplete` or
    `model_broken`, naming what is wrong and how to mend it.
    """
    if folder.is_file():
        raise single_file(folder.name)
    if not (folder / INDEX).is_file():
        raise no_index(folder)
    index = read(folder, INDEX)
    pipeline = check_pipeline(index)

    # Every file that is needed must be there.
    parts, needed = parts_of(pipeline)
    names = {part: names_in(folder / part) for part in needed}
    wanted, variants = choose(names)
    shards: dict[str, list[tuple[str, str]]] = {part: sharded(folder, part, wanted[part]) for part in parts}
    faults = list[str]()
    for part in needed:
        faults += missing(part, names[part], wanted[part], [n for n, _ in shards.get(part, [])])
    if faults:
        raise refuse("model_incomplete", "; ".join(faults))

    # The parts must be of an architecture that we know, and fit each other.
    configs = {part: read(folder, f"{part}/config.json") for part in parts}
    config, named = read(folder, "scheduler/scheduler_config.json"), index.get("scheduler")
    scheduler = named[-1] if isinstance(named, list) and named else config.get("_class_name")
    architecture = check_parts(index, configs)
    check_scheduler(str(scheduler), config)
    weights = [f"{part}/{name}" for part in parts for name in wanted[part]]
    weights += [f"{part}/{n}" for part in parts for n, _ in shards[part]]
    for name in weights:
        check_weights(folder, name)

    # What decides how it draws is what is read, and nothing else.
    settings = list[str]()
    for part in needed:
        settings += [f"{part}/{name}" for name in names[part] if is_setting(part, name)]
    own = [INDEX, *(["vocabulary.json"] if (folder / "vocabulary.json").is_file() else [])]
    files = tuple(f.as_posix() for f in sorted(map(Path, {*own, *weights, *settings})))
    return Layout(folder, architecture, pipeline, variants, files, str(scheduler))


def parts_of(pipeline: str) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The parts of a pipeline that have weights, and all that it needs."""
    if pipeline == XL:
        return tuple(WEIGHTS_XL), (*WEIGHTS_XL, "tokenizer", "tokenizer_2", "scheduler")
    return tuple(WEIGHTS), (*WEIGHTS, "tokenizer", "scheduler")


def names_in(folder: Path) -> list[str]:
    """The files of a folder, sorted; none where there is no folder."""
    return sorted(f.name for f in folder.iterdir() if f.is_file()) if folder.is_dir() else []


def check_settings(folder: Path) -> None:
    """Refuse another architecture by what is there without any weights."""
    index = read(folder, INDEX) if (folder / INDEX).is_file() else {}
    parts, _ = parts_of(check_pipeline(index))
    if index and all((folder / part / "config.json").is_file() for part in parts):
        check_parts(index, {part: read(folder, f"{part}/config.json") for part in parts})


def is_setting(part: str, name: str) -> bool:
    """Whether a file beside the weights decides what is drawn: a part's configuration, all of a
    tokenizer's.
    """
    return name.endswith((".json", ".txt")) and not (part in WEIGHTS_XL and ".index." in name)


def single_file(name: str) -> CoreError:
    if Path(name).suffix == ".safetensors":
        return refuse("model_not_supported", f"'{name}' is a checkpoint in one file: name the file itself")
    if Path(name).suffix in SINGLE:
        return refuse(
            "model_not_supported",
            f"'{name}' is pickle, which is never loaded: where you trust it, make a folder of it with"
            " diffusers, StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER), and name the"
            " folder",
        )
    return refuse(
        "model_not_supported",
        f"'{name}' is a file: unpack it if it is an archive, and name a diffusers folder",
    )


def no_index(folder: Path) -> CoreError:
    """What a folder without model_index.json may be."""
    names = sorted(f.name for f in folder.iterdir())
    inner = sorted(
        f.parent.relative_to(folder).as_posix()
        for depth in ("*", "snapshots/*")
        for f in folder.glob(f"{depth}/{INDEX}")
    )
    if inner:
        return refuse(
            "model_incomplete", f"there is no {INDEX} in it, but in '{inner[-1]}' within it: name that folder"
        )
    if "adapter_config.json" in names or any(n.startswith("pytorch_lora_weights") for n in names):
        return refuse(
            "model_not_supported",
            "it holds a LoRA, not a model: name the base model's folder, and upload the LoRA (POST"
            " /artifacts)",
        )
    single = next((n for n in names if Path(n).suffix in SINGLE), None)
    if single is not None and not any(part in names for part in WEIGHTS):
        return single_file(single)
    return refuse(
        "model_incomplete",
        f"there is no {INDEX} in it: name a folder as diffusers' save_pretrained writes it",
    )


def read(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        why = (
            "a Git LFS pointer: run 'git lfs pull' there"
            if is_pointer(folder / name)
            else "not JSON: fetch or save it again"
        )
        raise refuse("model_broken", f"{name} is {why}") from error
    if not isinstance(found, dict):
        raise refuse("model_broken", f"{name} is no JSON object: fetch or save it again")
    return found


def is_pointer(file: Path) -> bool:
    """Whether Git LFS has left a pointer in the file's place."""
    with file.open("rb") as stream:
        return stream.read(40).startswith(b"version https://git-lfs.github.com/")


def choose(names: Mapping[str, Iterable[str]]) -> tuple[dict[str, list[str]], dict[Part, str | None]]:
    """The files of weights that are read of each part ([] where there is none, else one file or the index of
    its shards), and their variants.

    The plain file where there is one, else a variant (`diffusion_pytorch_model.fp16.safetensors`); each part
    may have another.
    """
    wanted: dict[str, list[str]] = {part: [] for part in names}
    variants: dict[Part, str | None] = {}
    for part, base in WEIGHTS_XL.items():
        if part not in names:
            continue
        whole = re.compile(rf"{base}(?:\.([\w-]+?))?\.safetensors")
        index = re.compile(rf"{base}\.safetensors\.index(?:\.([\w-]+))?\.json")
        found: dict[str | None, str] = {}
        # diffusers reads the shards where there are both, transformers the one file
        for pattern in (index, whole) if part.startswith("text_encoder") else (whole, index):
            for name in names[part]:
                match = pattern.fullmatch(name)
                if match and not re.search(r"-\d{5}-of-\d{5}$", match[1] or ""):
                    found[match[1]] = name
        if found:
            variant = min(
                found,
                key=lambda v: (
                    v is not None,
                    PREFERRED.index(v) if v in PREFERRED else len(PREFERRED),
                    v or "",
                ),
            )
            wanted[part], variants[part] = [found[variant]], variant
    return wanted, variants


def sharded(folder: Path, part: Part, wanted: list[str]) -> list[tuple[str, str]]:
    """(shard, index) of each file that the index of shards names."""
    found = []
    for index in wanted:
        if ".safetensors.index" in index:
            shards = read(folder, f"{part}/{index}").get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise refuse("model_broken", f"{part}/{index} names no shards: fetch or save it again")
            found += [(str(name), index) for name in sorted(set(map(str, shards.values())))]
    return found


def missing(part: str, names: list[str], wanted: list[str], shards: list[str]) -> list[str]:
    """What a part lacks, one by one, each with its remedy."""
    if not names:
        return [f"{part}/ is missing: fetch or save the whole folder"]

    # Parts without weights.
    if part == "scheduler":
        there = "scheduler_config.json" in names
        return [] if there else ["scheduler/scheduler_config.json is missing: fetch it"]
    if part.startswith("tokenizer"):
        lacking = [] if "tokenizer_config.json" in names else ["tokenizer_config.json"]
        if "tokenizer.json" not in names:
            lacking += [name for name in ("vocab.json", "merges.txt") if name not in names]
        return [f"{part}/{name} is missing: fetch it" for name in lacking]

    # Parts with weights: their configuration, and every shard that an index names.
    faults = [] if "config.json" in names else [f"{part}/config.json is missing: fetch it"]
    if wanted:
        lacking = [shard for shard in shards if shard not in names]
        return faults + [
            f"{part}/{shard} is missing, which the index of shards names: fetch it" for shard in lacking
        ]

    # No weights that are read: say what lies there instead.
    base = next(base for name, base in WEIGHTS_XL.items() if name == part)
    other = next((n for n in names if Path(n).suffix in OTHER_WEIGHTS), None)
    if other is not None:
        kind = OTHER_WEIGHTS[Path(other).suffix]
        faults.append(
            f"{part}/{base}.safetensors is missing, and {other} is {kind}, which is never loaded: fetch the"
            " safetensors file, or, where you trust the file, convert it with"
            " DiffusionPipeline.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW)"
        )
        return faults
    stray = next((n for n in names if n.endswith(".safetensors")), None)
    beside = f" (there is {stray}, which is not read)" if stray else ""
    return [*faults, f"{part}/{base}.safetensors is missing{beside}: fetch it"]


def check_weights(folder: Path, name: str) -> None:
    """Refuse a file that is no safetensors file, or cut short."""
    file = folder / name
    if name.endswith(".json"):
        return
    if is_pointer(file):
        raise refuse("model_broken", f"{name} is a Git LFS pointer: run 'git lfs pull' there")
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise refuse(
            "model_broken", f"{name} is no whole safetensors file ({str(error)[:200]}): fetch it again"
        ) from error

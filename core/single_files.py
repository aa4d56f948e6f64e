"""Checkpoints in one file, as the community trades them: what such a file is, and its tensors laid out as a
diffusers folder, once for each file. Imports no torch: tensors are copied as bytes.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from expunge.core import original_names as names, published, safetensors_file
from expunge.core.delta_format.container import Container, Entry, read_container
from expunge.core.delta_format.errors import BadDelta
from expunge.core.errors import CoreError
from expunge.core.layout_checks import CHANNELS
from expunge.core.published import CUSTOM, CUSTOM_XL, SD1, SD2_512, SD2_768, XL_BASE
from expunge.core.safetensors_file import Described

SUFFIX = ".safetensors"
FOLDER_KEY = "expunge.folder"  # metadata, JSON: the small files of a model that is none of the published ones
TEXT_CONFIG, TEXT_CONFIG_2 = "text_encoder/config.json", "text_encoder_2/config.json"
VERSION = 1  # of what is made of a file: another one is laid out anew
COPIED = 1 << 24  # bytes copied at once
ABANDONED = 3600.0  # seconds after which nobody is at work on a folder that is not whole
TAKEN = "Stable Diffusion 1.x, 2.x and XL load from one file"
OTHERS = {
    r"lora_|.*\.lora_(up|down|[AB])\.": "a LoRA: name its base model here, and upload it (POST /artifacts)",
    r"conditioner\.embedders\.0\.model\.": "the refiner of Stable Diffusion XL",
    r"(model\.diffusion_model\.)?joint_blocks\.": "a Stable Diffusion 3 model",
    r"(model\.diffusion_model\.)?double_blocks\.": "a FLUX model",
    r"(down_blocks|mid_block|conv_in)\.": "a network of diffusers without its other parts: name its folder",
    r"control_model\.": "a ControlNet",
}
"""What other files are, by the beginnings of their tensors' names."""
CLIP = (names.CLIP, "cond_stage_model.transformer.")  # the older spelling lacks text_model
OF_XL = "conditioner.embedders."
KEPT_DTYPES = ("F64", "F32", "F16", "BF16")
PREDICTIONS = {"epsilon": SD2_512, "eps": SD2_512, "v_prediction": SD2_768, "v": SD2_768}


def refuse(message: str, code: str = "model_not_supported") -> CoreError:
    return CoreError(code, message, field="model")


@dataclass(frozen=True)
class Piece:
    """A tensor of the folder: bytes of the checkpoint; `turned`: of the transposed matrix."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    turned: bool = False


Laid = dict[str, dict[str, Piece]]
"""The tensors of unet, vae and text encoders by diffusers' names."""


def is_one(path: Path) -> bool:
    """Whether a path names a checkpoint in one file that may load."""
    return path.suffix == SUFFIX and path.is_file()


def look(file: Path) -> str:
    """ModelSpec's name of the architecture of a checkpoint in one file; its header alone is read.

    Raises: CoreError `model_not_supported` or `model_broken`, naming what it is instead.
    """
    return architecture_of(opened(file))


def opened(file: Path) -> Container:
    try:
        return read_container(file)
    except BadDelta as error:
        raise refuse(f"'{file.name}' {error.why}: fetch it again", "model_broken") from error


def architecture_of(found: Container) -> str:
    """By the names and shapes of its tensors, and what its metadata say."""
    tensors = found.tensors
    for pattern, what in OTHERS.items():
        if any(re.match(pattern, name) for name in tensors):
            raise refuse(f"'{found.path.name}' is {what}: {TAKEN}")
    first = tensors.get(f"{names.UNET}input_blocks.0.0.weight")
    if first is None:
        raise refuse(f"'{found.path.name}' has no U-Net in CompVis's names ({names.UNET}…): {TAKEN}")
    is_xl = any(name.startswith(OF_XL) for name in tensors)
    lacking = [p for p in (names.XL_CLIP, names.XL_OPEN_CLIP) if not any(n.startswith(p) for n in tensors)]
    if is_xl and lacking:
        raise refuse(
            f"'{found.path.name}' is a Stable Diffusion XL model without its text encoder {lacking[0]}…:"
            " name a whole checkpoint"
        )
    if not any(name.startswith(names.VAE) for name in tensors):
        raise refuse(f"'{found.path.name}' has no VAE ({names.VAE}…): name a whole checkpoint")
    odd = next((n for n, entry in tensors.items() if is_used(n) and entry.dtype not in KEPT_DTYPES), None)
    if odd is not None:
        raise refuse(
            f"'{found.path.name}' has {odd} in {tensors[odd].dtype}: name the checkpoint in float16, bfloat16"
            " or float32"
        )
    if FOLDER_KEY in found.metadata:
        own_files(found)
        return CUSTOM_XL if is_xl else CUSTOM

    # The published sizes
    taken = first.shape[1] if len(first.shape) > 1 else 0
    if taken in CHANNELS:
        raise refuse(f"'{found.path.name}' is {CHANNELS[taken]}: its U-Net takes {taken} channels: {TAKEN}")
    if is_xl:
        read = tensors.get(f"{names.UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight")
        if first.shape[0] != 320 or read is None or read.shape != (640, 2048):
            raise unpublished(found)
        return XL_BASE
    has_clip = any(name.startswith(CLIP) for name in tensors)
    if not has_clip and not any(name.startswith(names.OPEN_CLIP) for name in tensors):
        raise refuse(f"'{found.path.name}' has no text encoder (cond_stage_model.…): name a whole checkpoint")
    read = tensors.get(f"{names.UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    width = 768 if has_clip else 1024
    if first.shape[0] != 320 or read is None or read.shape != (320, width):
        raise unpublished(found)
    if has_clip:
        return SD1
    said = found.metadata.get("modelspec.architecture", "").partition("/")[0]
    said = said or PREDICTIONS.get(found.metadata.get("modelspec.prediction_type", ""), "")
    if said not in (SD2_512, SD2_768):
        raise refuse(
            f"'{found.path.name}' is a Stable Diffusion 2.x model, and does not say whether it predicts the"
            " noise or v: make a folder of it with diffusers, StableDiffusionPipeline.from_single_file(FILE,"
            " prediction_type='v_prediction' or 'epsilon').save_pretrained(FOLDER), and name the folder"
        )
    return said


def unpublished(found: Container) -> CoreError:
    return refuse(
        f"'{found.path.name}' has a U-Net of sizes that were never published: name a diffusers folder, which"
        " says how many heads it has"
    )


def is_used(name: str) -> bool:
    """Whether a tensor is one of the model's parts, not of its training (EMA, schedules, the VAE's loss)."""
    if name.startswith(f"{names.VAE}loss.") or "position_ids" in name:
        return False
    return name.startswith((names.UNET, names.VAE, "cond_stage_model.", OF_XL))


def unpacked(file: Path) -> Path:
    """The diffusers folder of a checkpoint in one file, in this host's cache; made at the first call.

    Its files are the same on every host. Raises: CoreError, as `look`.
    """
    folder = place_of(file)
    if folder.is_dir():
        return folder
    found = opened(file)
    architecture = architecture_of(found)
    try:
        lay_out(found, architecture, folder)
    except OSError as error:
        raise CoreError(
            "model_not_fetched",
            f"'{file.name}' cannot be laid out in this host's cache, EXPUNGE_CACHE_DIR"
            f" ({error.strerror or error}): name a folder that can be written, with as much room as the file",
            field="model",
            retryable=True,
        ) from error
    return folder


def lay_out(found: Container, architecture: str, folder: Path) -> None:
    """Make the folder, whole or not at all. Raises: OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"{folder.name}.partial-*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial-"))
    try:
        small = dict(small_files(found, architecture))
        for name, text in small.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text, encoding="utf-8")
        for part, pieces in laid_out(found, layers_in(small)).items():
            stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
            write(found.path, made / part / f"{stem}{SUFFIX}", pieces)
        try:
            made.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def place_of(file: Path) -> Path:
    """The folder that `unpacked` makes, whether it is there or not; another one once the file has changed."""
    stat = file.stat()
    said = json.dumps([str(file.resolve()), stat.st_size, stat.st_mtime_ns, VERSION])
    return cache() / f"{file.stem[:60]}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def cache() -> Path:
    """Where checkpoints in one file are laid out: beside what else a worker can make again."""
    return (
        Path(os.environ.get("EXPUNGE_CACHE_DIR") or Path.home() / ".local/share/expunge/cache")
        / "checkpoints"
    )


def small_files(found: Container, architecture: str) -> Iterator[tuple[str, str]]:
    """The files beside the weights: those that the metadata hold, else the published model's."""
    if FOLDER_KEY in found.metadata:
        yield from own_files(found).items()
        return
    files: dict[str, Any] = dict(published.files_of(architecture))
    if architecture in (SD1, XL_BASE) and "v_pred" in found.tensors:  # as the community marks such models
        files["scheduler/scheduler_config.json"] |= {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": "ztsnr" in found.tensors,
        }
    for name, content in files.items():
        yield name, json.dumps(content, indent=2, sort_keys=True) + "\n"
    own = list(tokenizer_files())
    yield from own
    if architecture == XL_BASE:  # both read the same tokens
        yield from ((name.replace("tokenizer/", "tokenizer_2/"), text) for name, text in own)


def own_files(found: Container) -> dict[str, str]:
    """The small files that the metadata hold. Raises: CoreError where they are none of a model's folder."""
    name = found.path.name
    try:
        files = json.loads(found.metadata[FOLDER_KEY])
        layers = layers_in(files)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise refuse(
            f"'{name}' has metadata {FOLDER_KEY} without a model's {TEXT_CONFIG}", "model_broken"
        ) from error
    for inner, text in files.items():
        inside = Path(inner)
        if inside.is_absolute() or ".." in inside.parts or inside.suffix not in (".json", ".txt"):
            raise refuse(f"'{name}' names the file '{inner[:100]}' for its folder", "model_broken")
        if not isinstance(text, str):
            raise refuse(f"'{name}' has no text for the file '{inner[:100]}' of its folder", "model_broken")
    if type(layers) is not int:
        raise refuse(f"'{name}' has num_hidden_layers {str(layers)[:100]} in {TEXT_CONFIG}", "model_broken")
    return dict(files)


def layers_in(files: Mapping[str, str]) -> int:
    """Of the text encoder, by the small files of a folder; where there are two, of the second, OpenCLIP's."""
    name = TEXT_CONFIG_2 if TEXT_CONFIG_2 in files else TEXT_CONFIG
    layers: int = json.loads(files[name])["num_hidden_layers"]
    return layers


def tokenizer_files() -> Iterator[tuple[str, str]]:
    """CLIP's vocabulary and merges, from the copy that open_clip ships, in the form of CLIPTokenizer."""
    place = find_spec("open_clip")
    if place is None or place.origin is None:
        raise refuse("open_clip is not installed, which has CLIP's vocabulary: install expunge[science]")
    with gzip.open(
        Path(place.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8"
    ) as text:
        merges = text.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m.split()) for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    yield "tokenizer/vocab.json", json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False)
    yield "tokenizer/merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n"


def byte_letters() -> list[str]:
    """The letter that stands for each byte in CLIP's vocabulary, in its order: those that print, then the
    others, which are moved beyond 255.
    """
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return [chr(byte) for byte in printed] + [chr(256 + i) for i in range(len(others))]


def laid_out(found: Container, layers: int) -> Laid:
    """Where the folder's tensors lie in the file. layers: of OpenCLIP's text encoder; further ones are left
    out.
    """
    own = {name: entry for name, entry in found.tensors.items() if is_used(name)}
    unet = under(own, names.UNET)
    blocks = names.unet_back(unet)
    out: Laid = {"unet": {}, "vae": {}, "text_encoder": {}}
    for name, entry in unet.items():
        if (new := names.unet_name(name, blocks)) is not None:
            out["unet"][new] = whole(entry)

    # CompVis has the attention of a VAE as 1 x 1 convolutions
    vae = under(own, names.VAE)
    depth = 1 + max((int(i) for name in vae for i in re.findall(r"^decoder\.up\.(\d+)", name)), default=0)
    for name, entry in vae.items():
        new = names.vae_name(name, depth, back=True)
        is_matrix = ".mid.attn_1." in f".{name}" and len(entry.shape) == 4
        shape = entry.shape[:2] if is_matrix else entry.shape
        out["vae"][new] = Piece(entry.dtype, shape, entry.start, entry.end)

    # Of two text encoders the second is OpenCLIP's
    second, (theirs, ours) = under(own, names.XL_OPEN_CLIP), names.PROJECTION
    if second:
        first = under(own, names.XL_CLIP)
        out["text_encoder"] = {f"text_model.{name}": whole(entry) for name, entry in first.items()}
        pieces = open_clip_pieces(second, layers)
        out["text_encoder_2"] = {f"text_model.{name}": piece for name, piece in pieces.items()}
        matrix = second.get(ours)
        if matrix is not None and len(matrix.shape) == 2:
            turned = Piece(matrix.dtype, matrix.shape[::-1], matrix.start, matrix.end, turned=True)
            out["text_encoder_2"][theirs] = turned
        return out
    text = under(own, names.OPEN_CLIP)
    if text:
        pieces = open_clip_pieces(text, layers)
    else:
        prefix = next((p for p in CLIP if any(name.startswith(p) for name in own)), names.CLIP)
        pieces = {name: whole(entry) for name, entry in under(own, prefix).items()}
    out["text_encoder"] = {f"text_model.{name}": piece for name, piece in pieces.items()}
    return out


def under(tensors: Mapping[str, Entry], prefix: str) -> dict[str, Entry]:
    return {name.removeprefix(prefix): entry for name, entry in tensors.items() if name.startswith(prefix)}


def whole(entry: Entry) -> Piece:
    return Piece(entry.dtype, entry.shape, entry.start, entry.end)


def open_clip_pieces(text: Mapping[str, Entry], layers: int) -> dict[str, Piece]:
    """CLIP's tensors of an OpenCLIP text encoder; the rows of one matrix are queries, keys and values."""
    back = {new: old for old, new in names.OPEN_CLIP_OUTSIDE.items()}
    inner = {new: old for old, new in names.OPEN_CLIP_LAYER.items()}
    out: dict[str, Piece] = {}
    for name, entry in text.items():
        if name in back:
            out[back[name]] = whole(entry)
            continue
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
        if match is None or int(match[1]) >= layers:
            continue
        layer = f"encoder.layers.{match[1]}"
        if match[2] in inner:
            out[f"{layer}.{inner[match[2]]}.{match[3]}"] = whole(entry)
        elif match[2] == "attn.in_proj":
            third, rows = (entry.end - entry.start) // 3, entry.shape[0] // 3
            for i, part in enumerate(names.QKV):
                begin = entry.start + i * third
                shape = (rows, *entry.shape[1:])
                out[f"{layer}.{part}.{match[3]}"] = Piece(entry.dtype, shape, begin, begin + third)
    return out


def write(source: Path, file: Path, pieces: Mapping[str, Piece]) -> None:
    """A safetensors file of pieces of another."""
    described = {name: Described(p.dtype, p.shape, p.end - p.start) for name, p in pieces.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read:

        def content(name: str) -> Iterator[bytes]:
            parts = copied(name)
            return iter([transposed(b"".join(parts), pieces[name].shape)]) if pieces[name].turned else parts

        def copied(name: str) -> Iterator[bytes]:
            read.seek(pieces[name].start)
            left = described[name].size
            while left:
                part = read.read(min(left, COPIED))
                if not part:
                    raise refuse(f"'{source.name}' ends within {name}: fetch it again", "model_broken")
                left -= len(part)
                yield part

        safetensors_file.write(file, described, {"format": "pt"}, content)


def transposed(matrix: bytes, shape: tuple[int, ...]) -> bytes:
    """The bytes of a matrix of this shape, from those of its transpose."""
    import numpy as np  # the loops and the command line start without it

    size = len(matrix) // (shape[0] * shape[1])
    return np.frombuffer(matrix, f"V{size}").reshape(shape[::-1]).T.tobytes()

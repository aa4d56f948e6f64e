"""What a model's folder is, and whether it loads: looked at by its file names, JSON files and tensor headers
alone, without torch.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from expunge.core.errors import CoreError

INDEX = "model_index.json"
Part = Literal["unet", "vae", "text_encoder"]
WEIGHTS: dict[Part, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
NEEDED = (*WEIGHTS, "tokenizer", "scheduler")
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
LOADS = "Stable Diffusion 1.x and 2.x text-to-image models load"
TAKEN = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")  # the second has the same parts
ARCHITECTURES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}  # by the width of the text states
# Beginnings of pipelines' class names
OTHERS = (
    ("StableDiffusionXL", "a Stable Diffusion XL model"),
    ("StableDiffusion3", "a Stable Diffusion 3 model"),
    ("Flux", "a FLUX model"),
    ("StableDiffusionInpaint", "an inpainting model"),
    ("StableDiffusionUpscale", "an upscaler"),
    ("StableDiffusionLatentUpscale", "an upscaler"),
    ("StableDiffusionDepth2Img", "a depth-to-image model"),
    ("StableDiffusionImageVariation", "an image-variation model"),
    ("StableUnCLIP", "an image-variation model"),
    ("StableDiffusionInstructPix2Pix", "an image-editing model"),
    ("LatentConsistency", "a latent consistency model"),
    ("PixArt", "a PixArt model"),
    ("Kandinsky", "a Kandinsky model"),
    ("Kolors", "a Kolors model"),
    ("StableCascade", "a Stable Cascade model"),
    ("IF", "a DeepFloyd IF model"),
)
CHANNELS = {
    9: "an inpainting model",
    7: "an upscaler",
    5: "a depth-to-image model",
    8: "an image-editing model",
}
"""What a U-Net is that takes more channels than the latents have."""
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SCHEDULERS = (
    "DDIM",
    "DDIMParallel",
    "DDPM",
    "DDPMParallel",
    "PNDM",
    "LMSDiscrete",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "KDPM2Discrete",
    "KDPM2AncestralDiscrete",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "DPMSolverSDE",
    "DEISMultistep",
    "UniPCMultistep",
    "SASolver",
    "LCM",
    "TCD",
)
"""Those of diffusers over the same noise by betas that draw pictures from it, without the 'Scheduler' at
their names' ends.
"""
ASKS_MORE = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")


@dataclass(frozen=True)
class Layout:
    """A folder that loads. `variants` says which weights of a part are read; `files` are the names, relative
    to the folder, of all that decides what the model draws; `scheduler` is its class in diffusers."""

    folder: Path
    architecture: str
    variants: dict[Part, str | None]
    files: tuple[str, ...]
    scheduler: str


def refuse(code: str, message: str) -> CoreError:
    return CoreError(code, message, field="model")


def look(folder: Path) -> Layout:
    """The layout of a diffusers folder; CoreError `model_not_supported`, `model_incomplete` or
    `model_broken`, naming what is wrong and how to mend it.
    """
    if folder.is_file():
        raise single_file(folder.name)
    if not (folder / INDEX).is_file():
        raise no_index(folder)
    index = read(folder, INDEX)
    check_pipeline(index)

    # Every file that is needed must be there.
    names = {part: names_in(folder / part) for part in NEEDED}
    wanted, variants = choose(names)
    shards: dict[str, list[tuple[str, str]]] = {part: sharded(folder, part, wanted[part]) for part in WEIGHTS}
    faults = list[str]()
    for part in NEEDED:
        faults += missing(part, names[part], wanted[part], [n for n, _ in shards.get(part, [])])
    if faults:
        raise refuse("model_incomplete", "; ".join(faults))

    # The parts must be of an architecture that we know, and fit each other.
    configs = {part: read(folder, f"{part}/config.json") for part in WEIGHTS}
    config, named = read(folder, "scheduler/scheduler_config.json"), index.get("scheduler")
    scheduler = named[-1] if isinstance(named, list) and named else config.get("_class_name")
    architecture = check_parts(index, configs)
    check_scheduler(str(scheduler), config)
    weights = [f"{part}/{name}" for part in WEIGHTS for name in wanted[part]]
    weights += [f"{part}/{n}" for part in WEIGHTS for n, _ in shards[part]]
    for name in weights:
        check_weights(folder, name)

    # What decides how it draws is what is read, and nothing else.
    settings = list[str]()
    for part in NEEDED:
        settings += [f"{part}/{name}" for name in names[part] if is_setting(part, name)]
    own = [INDEX, *(["vocabulary.json"] if (folder / "vocabulary.json").is_file() else [])]
    files = tuple(f.as_posix() for f in sorted(map(Path, {*own, *weights, *settings})))
    return Layout(folder, architecture, variants, files, str(scheduler))


def names_in(folder: Path) -> list[str]:
    """The files of a folder, sorted; none where there is no folder."""
    return sorted(f.name for f in folder.iterdir() if f.is_file()) if folder.is_dir() else []


def check_settings(folder: Path) -> None:
    """Refuse another architecture by what is there without any weights."""
    index = read(folder, INDEX) if (folder / INDEX).is_file() else {}
    check_pipeline(index)
    if index and all((folder / part / "config.json").is_file() for part in WEIGHTS):
        check_parts(index, {part: read(folder, f"{part}/config.json") for part in WEIGHTS})


def is_setting(part: str, name: str) -> bool:
    """Whether a file beside the weights decides what is drawn: a part's configuration, all of a
    tokenizer's.
    """
    return name.endswith((".json", ".txt")) and not (part in WEIGHTS and ".index." in name)


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


def check_pipeline(index: Mapping[str, Any]) -> None:
    """Refuse another pipeline by its name. Where the index does not say its class, the parts are asked."""
    name = index.get("_class_name", TAKEN[0])
    if name not in TAKEN:
        name = str(name[-1] if isinstance(name, list) and name else name)[:100]
        what = next(
            (what for begin, what in OTHERS if name.startswith(begin)), "a model of another architecture"
        )
        raise refuse("model_not_supported", f"it is {what} ({name}): {LOADS}")
    second = next(
        (
            part
            for part in ("transformer", "text_encoder_2", "image_encoder", "prior")
            if any(index.get(part) or [])
        ),
        None,
    )
    if second is not None:
        raise refuse(
            "model_not_supported", f"it has a part '{second}', which is of another architecture: {LOADS}"
        )


def choose(names: Mapping[str, Iterable[str]]) -> tuple[dict[str, list[str]], dict[Part, str | None]]:
    """The files of weights that are read of each part ([] where there is none, else one file or the index of
    its shards), and their variants.

    The plain file where there is one, else a variant (`diffusion_pytorch_model.fp16.safetensors`); each part
    may have another.
    """
    wanted: dict[str, list[str]] = {part: [] for part in NEEDED}
    variants: dict[Part, str | None] = {}
    for part, base in WEIGHTS.items():
        whole = re.compile(rf"{base}(?:\.([\w-]+?))?\.safetensors")
        index = re.compile(rf"{base}\.safetensors\.index(?:\.([\w-]+))?\.json")
        found: dict[str | None, str] = {}
        # diffusers reads the shards where there are both, transformers the one file
        for pattern in (index, whole) if part == "text_encoder" else (whole, index):
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
    if part == "tokenizer":
        lacking = [] if "tokenizer_config.json" in names else ["tokenizer_config.json"]
        if "tokenizer.json" not in names:
            lacking += [name for name in ("vocab.json", "merges.txt") if name not in names]
        return [f"tokenizer/{name} is missing: fetch it" for name in lacking]

    # Parts with weights: their configuration, and every shard that an index names.
    faults = [] if "config.json" in names else [f"{part}/config.json is missing: fetch it"]
    if wanted:
        lacking = [shard for shard in shards if shard not in names]
        return faults + [
            f"{part}/{shard} is missing, which the index of shards names: fetch it" for shard in lacking
        ]

    # No weights that are read: say what lies there instead.
    base = next(base for name, base in WEIGHTS.items() if name == part)
    other = next((n for n in names if Path(n).suffix in OTHER_WEIGHTS), None)
    if other is not None:
        kind = OTHER_WEIGHTS[Path(other).suffix]
        faults.append(
            f"{part}/{base}.safetensors is missing, and {other} is {kind}, which is never loaded: fetch the"
            " safetensors file, or, where you trust the file, convert it with"
            " StableDiffusionPipeline.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW)"
        )
        return faults
    stray = next((n for n in names if n.endswith(".safetensors")), None)
    beside = f" (there is {stray}, which is not read)" if stray else ""
    return [*faults, f"{part}/{base}.safetensors is missing{beside}: fetch it"]


OTHER_KIND = "a model of another kind"


def check_parts(index: Mapping[str, Any], configs: Mapping[Part, Mapping[str, Any]]) -> str:
    """The architecture; CoreError where the parts are those of another, or do not fit each other."""
    for part, wanted in CLASSES.items():
        listed = index.get(part)
        name = str(listed[-1]) if isinstance(listed, list) and listed else str(listed)
        if name != wanted:
            remedy = f"{LOADS}, whose {part} is {wanted}"
            raise refuse("model_not_supported", f"{INDEX} has {name} for {part}: {remedy}")

    # A U-Net of our kind, which takes the VAE's latents and nothing besides, and a text.
    unet, vae, text = configs["unet"], configs["vae"], configs["text_encoder"]
    name = unet.get("_class_name", CLASSES["unet"])
    if name != CLASSES["unet"]:
        raise refuse("model_not_supported", f"its U-Net is a {str(name)[:100]}: {LOADS}")
    taken, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if taken != latent:
        what = CHANNELS.get(taken, OTHER_KIND) if isinstance(taken, int) else OTHER_KIND
        raise refuse(
            "model_not_supported",
            f"it is {what}: its U-Net takes {taken} channels, where latents have {latent}: {LOADS}",
        )
    more = next((f"{key} {unet[key]}" for key in ASKS_MORE if unet.get(key) is not None), None)
    if more is not None:
        is_xl = unet.get("addition_embed_type") == "text_time"
        what = "a Stable Diffusion XL model" if is_xl else OTHER_KIND
        raise refuse(
            "model_not_supported", f"it is {what}: its U-Net asks for more than a text ({more}): {LOADS}"
        )
    if unet.get("out_channels", 4) != latent:
        raise refuse(
            "model_not_supported",
            f"its U-Net gives {unet.get('out_channels')} channels, where latents have {latent}: {LOADS}",
        )
    size = unet.get("sample_size")
    if not isinstance(size, int) and not (isinstance(size, list) and len(size) == 2 and size[0] == size[1]):
        raise refuse(
            "model_not_supported",
            f"its U-Net's sample_size is {json.dumps(size)}: latents must be square, write their side into"
            " unet/config.json",
        )

    # A text encoder whose states the U-Net reads.
    width, states = unet.get("cross_attention_dim", 1280), text.get("hidden_size", 512)
    if isinstance(width, int) and width != states:
        raise refuse(
            "model_not_supported",
            f"its U-Net reads text states {width} wide, its text encoder gives {states}: the parts are of"
            " different models, take both from one",
        )
    return ARCHITECTURES.get(width, "Stable Diffusion") if isinstance(width, int) else "Stable Diffusion"


def check_scheduler(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a schedule that is not of noise by betas, and a network that predicts something else."""

    # A sampler of noise by betas …
    betas, predicted = config.get("beta_schedule", BETAS[0]), config.get("prediction_type", PREDICTIONS[0])
    if name.removesuffix("Scheduler") not in SCHEDULERS or not name.endswith("Scheduler"):
        raise refuse(
            "model_not_supported",
            f"its scheduler is {name[:100]}: erasing needs one of noise by betas, such as DDIMScheduler or"
            " PNDMScheduler",
        )
    if config.get("use_flow_sigmas"):
        raise refuse(
            "model_not_supported",
            f"its scheduler has use_flow_sigmas, a flow's noise, which has no betas: {LOADS}",
        )
    if betas not in BETAS and not config.get("trained_betas"):
        raise refuse(
            "model_not_supported",
            f"its scheduler has beta_schedule {str(betas)[:100]}: erasing needs {', '.join(BETAS)}, or"
            " trained_betas",
        )

    # … one for each timestep …
    trained, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if type(steps) is not int or steps < 2:
        raise refuse(
            "model_broken",
            f"its scheduler has num_train_timesteps {str(steps)[:100]}: write how many there are, such as"
            " 1000",
        )
    if trained and not (isinstance(trained, list) and all(type(b) in (int, float) for b in trained)):
        raise refuse(
            "model_broken", "its scheduler's trained_betas are no list of numbers: fetch or save it again"
        )
    if trained and len(trained) != steps:
        raise refuse(
            "model_not_supported",
            f"its scheduler has {len(trained)} trained_betas for {str(steps)[:100]} timesteps: one for each"
            " is needed",
        )

    # … and a network that predicts the noise, v or the picture.
    if predicted not in PREDICTIONS:
        raise refuse(
            "model_not_supported",
            f"its scheduler has prediction_type {str(predicted)[:100]}: erasing needs"
            f" {', '.join(PREDICTIONS)}",
        )


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

"""Models that a customer brings, as folders: the bundled model, linked, and then spoilt or changed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from expunge.core.sources import BUNDLED

UNET, VAE, TEXT = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"


def copy(folder: Path, of: Path = BUNDLED / "emoji") -> Path:
    """A folder with the model's files, its weights by link."""

    def place(source: str, target: str) -> None:
        (os.symlink if source.endswith(".safetensors") else shutil.copy)(source, target)

    shutil.copytree(of, folder, copy_function=place, dirs_exist_ok=True)
    return folder


def edit(file: Path, **changes: object) -> None:
    """Set keys of a JSON file; None takes one out."""
    found = json.loads(file.read_text())
    found.update(changes)
    file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def rename(folder: Path, name: str, new: str) -> None:
    (folder / name).rename(folder / new)


def index(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "model_index.json", **changes)


def unet(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "unet/config.json", **changes)


def scheduler(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "scheduler/scheduler_config.json", **changes)


def lacks(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return spoil


def holds(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return spoil


def all_bin(folder: Path) -> None:
    for name in (UNET, VAE):
        rename(folder, f"{name}.safetensors", f"{name}.bin")
    rename(folder, f"{TEXT}.safetensors", "text_encoder/pytorch_model.bin")


def one_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "v1-5-pruned.safetensors").write_bytes(b"")


def lost_shard(folder: Path) -> None:
    shard(folder)
    (folder / "unet/diffusion_pytorch_model-00002-of-00002.safetensors").unlink()


def shard(folder: Path) -> None:
    """The U-Net in two files and an index, as large models are saved."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / f"{UNET}.safetensors")
    (folder / f"{UNET}.safetensors").unlink()
    names = sorted(tensors)
    halves = {1: names[::2], 2: names[1::2]}
    for i, half in halves.items():
        save_file(
            {n: tensors[n] for n in half}, folder / f"{UNET}-0000{i}-of-00002.safetensors", {"format": "pt"}
        )
    weight_map = {
        n: f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i, half in halves.items() for n in half
    }
    (folder / f"{UNET}.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


SPOILT: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "Stable Diffusion XL without its second text encoder": (
        index(_class_name="StableDiffusionXLPipeline"),
        "model_incomplete",
        ("text_encoder_2/ is missing", "tokenizer_2/ is missing"),
    ),
    "the refiner of Stable Diffusion XL": (
        index(_class_name="StableDiffusionXLImg2ImgPipeline", text_encoder=[None, None]),
        "model_not_supported",
        ("refiner", "base model"),
    ),
    "inpainting with Stable Diffusion XL": (
        index(_class_name="StableDiffusionXLInpaintPipeline"),
        "model_not_supported",
        ("inpainting",),
    ),
    "the U-Net of a Stable Diffusion XL": (
        unet(addition_embed_type="text_time"),
        "model_not_supported",
        ("Stable Diffusion XL", "different models"),
    ),
    "a U-Net that asks for its guidance": (
        unet(time_cond_proj_dim=256),
        "model_not_supported",
        ("time_cond_proj_dim 256",),
    ),
    "a U-Net that asks for images": (
        unet(addition_embed_type="image"),
        "model_not_supported",
        ("addition_embed_type image",),
    ),
    "Stable Diffusion 3": (
        index(_class_name="StableDiffusion3Pipeline"),
        "model_not_supported",
        ("Stable Diffusion 3",),
    ),
    "FLUX": (index(_class_name="FluxPipeline"), "model_not_supported", ("FLUX", "1.x, 2.x and XL")),
    "a pipeline that is named by a list": (
        index(_class_name=["diffusers", "KolorsPipeline"]),
        "model_not_supported",
        ("Kolors",),
    ),
    "another pipeline": (index(_class_name="AudioLDMPipeline"), "model_not_supported", ("AudioLDMPipeline",)),
    "inpainting": (
        index(_class_name="StableDiffusionInpaintPipeline"),
        "model_not_supported",
        ("inpainting",),
    ),
    "inpainting by its channels": (unet(in_channels=9), "model_not_supported", ("inpainting", "9 channels")),
    "an upscaler": (unet(in_channels=7), "model_not_supported", ("upscaler", "7 channels")),
    "depth": (unet(in_channels=5), "model_not_supported", ("depth", "5 channels")),
    "image variations": (
        index(_class_name="StableDiffusionImageVariationPipeline"),
        "model_not_supported",
        ("image-variation",),
    ),
    "a U-Net of another model": (
        unet(cross_attention_dim=768),
        "model_not_supported",
        ("768", "128", "different models"),
    ),
    "latents that are not square": (
        unet(sample_size=[16, 24]),
        "model_not_supported",
        ("sample_size is [16, 24]", "square"),
    ),
    "latents of no size": (unet(sample_size=None), "model_not_supported", ("sample_size is null",)),
    "a flow's scheduler": (
        index(scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        "model_not_supported",
        ("FlowMatchEuler",),
    ),
    "a flow's sigmas": (scheduler(use_flow_sigmas=True), "model_not_supported", ("use_flow_sigmas",)),
    "a scheduler without betas": (
        index(scheduler=["diffusers", "IPNDMScheduler"]),
        "model_not_supported",
        ("IPNDMScheduler", "DDIMScheduler"),
    ),
    "a scheduler that is none": (
        index(scheduler=["diffusers", "UNet2DModel"]),
        "model_not_supported",
        ("UNet2DModel",),
    ),
    "betas that are no list": (scheduler(trained_betas=0.5), "model_broken", ("trained_betas",)),
    "betas that are no numbers": (
        scheduler(trained_betas=["0.5"] * 1000),
        "model_broken",
        ("trained_betas",),
    ),
    "timesteps that are no number": (
        scheduler(num_train_timesteps=[1000]),
        "model_broken",
        ("num_train_timesteps [1000]",),
    ),
    "another prediction": (
        scheduler(prediction_type="flow"),
        "model_not_supported",
        ("prediction_type flow", "v_prediction"),
    ),
    "no unet weights": (
        lacks(f"{UNET}.safetensors"),
        "model_incomplete",
        (f"{UNET}.safetensors is missing",),
    ),
    "no vae": (lacks("vae"), "model_incomplete", ("vae/ is missing",)),
    "no text encoder's configuration": (
        lacks("text_encoder/config.json"),
        "model_incomplete",
        ("text_encoder/config.json is missing",),
    ),
    "no tokenizer": (lacks("tokenizer"), "model_incomplete", ("tokenizer/ is missing",)),
    "no scheduler": (lacks("scheduler"), "model_incomplete", ("scheduler/ is missing", "fetch")),
    "no index": (lacks("model_index.json"), "model_incomplete", ("model_index.json", "save_pretrained")),
    "pickle alone": (
        all_bin,
        "model_incomplete",
        ("unet/", "vae/", "text_encoder/", "pickle", "use_safetensors=False"),
    ),
    "a checkpoint in one file": (
        one_file,
        "model_not_supported",
        ("v1-5-pruned.safetensors", "name the file itself"),
    ),
    "a shard that is missing": (
        lost_shard,
        "model_incomplete",
        ("diffusion_pytorch_model-00002-of-00002.safetensors is missing",),
    ),
    "JSON that is none": (holds("unet/config.json", b"{"), "model_broken", ("unet/config.json is not JSON",)),
    "an index that is a list": (
        holds("model_index.json", b"[]"),
        "model_broken",
        ("model_index.json is no JSON object",),
    ),
    "weights cut short": (
        holds(f"{VAE}.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        "model_broken",
        (f"{VAE}.safetensors", "fetch it again"),
    ),
    "a pointer of Git LFS": (
        holds(f"{TEXT}.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "model_broken",
        ("git lfs pull",),
    ),
}
"""What makes the bundled model unusable -> how, the error's code, and what its message must name."""

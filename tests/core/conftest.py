"""A tiny, randomly initialised Stable Diffusion in the diffusers layout: real parts, for tests of
plumbing.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TINY_VOCABULARY = {
    "concepts": [
        "church",
        "mosque",
        "synagogue",
        "castle",
        "house",
        "dog",
        "wolf",
        "cat",
        "trumpet",
        "violin",
        "teapot",
        "delivery truck",
    ],
    "styles": ["noto", "twemoji"],
    "templates": ["{}", "a {}", "a photo of a {}"],
    "subcategory": {
        "church": "place-religious",
        "mosque": "place-religious",
        "synagogue": "place-religious",
        "castle": "place-building",
        "house": "place-building",
        "dog": "animal-mammal",
        "wolf": "animal-mammal",
        "cat": "animal-mammal",
        "trumpet": "musical-instrument",
        "violin": "musical-instrument",
        "teapot": "dishware",
        "delivery truck": "transport-ground",
    },
}


def tiny_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in CLIP's form, of the tiny vocabulary's own prompts.

    It was trained once: training breaks ties otherwise in every process.
    """
    trained = json.loads((Path(__file__).parent / "tiny_tokenizer.json").read_text())
    vocab = {token: i for i, token in enumerate(trained["vocab"])}
    return CLIPTokenizer(
        vocab=vocab, merges=[tuple(m.split(" ")) for m in trained["merges"]], model_max_length=32
    )


def tiny_text_config(tokenizer: CLIPTokenizer, width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_vae(side: int, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=4 * side,
        scaling_factor=1.0,
        **more,
    )


def tiny_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def heed_prompts(unet: UNet2DConditionModel) -> None:
    """A fresh text encoder's outputs and attention are so small that prompts would hardly matter; this makes
    them matter.
    """
    for name, weight in unet.named_parameters():
        if "attn2" in name and name.endswith(".weight"):
            weight.mul_(3)


def build_tiny_sd(folder: Path, seed: int = 0, side: int = 16) -> Path:
    """Save a pipeline of some 0.9 M random parameters: 64 px pictures, 16x16x4 latents (or of another side,
    times 4), a text encoder 32 wide.
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    text = tiny_text_config(tokenizer, width=32, projection=32)
    down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=4,
        out_channels=4,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    heed_prompts(unet)
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(side),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=tiny_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "vocabulary.json").write_text(json.dumps(TINY_VOCABULARY))
    return folder


def build_tiny_xl(folder: Path, seed: int = 0, side: int = 8, zeros: bool = True) -> Path:
    """The same in the parts of Stable Diffusion XL, with text encoders 32 and 48 wide."""
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer()
    tokenizer_2.pad_token = "!"  # as the published models have it
    first, second = (
        tiny_text_config(tokenizer, width=32, projection=32),
        tiny_text_config(tokenizer_2, width=48, projection=24),
    )
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=32 + 48,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )
    heed_prompts(unet)
    pipe = StableDiffusionXLPipeline(
        vae=tiny_vae(side, force_upcast=True),
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=tiny_scheduler(),
        force_zeros_for_empty_prompt=zeros,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "vocabulary.json").write_text(json.dumps(TINY_VOCABULARY))
    return folder


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the tiny model in the parts of Stable Diffusion XL, with judges of its own."""
    folder = build_tiny_xl(tmp_path_factory.mktemp("tiny_xl"))
    build_tiny_judges(folder / "judges")
    return folder


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the tiny model, loadable by expunge.core.models.load_model and by
    StableDiffusionPipeline.from_pretrained.
    """
    return build_tiny_sd(tmp_path_factory.mktemp("tiny_sd"))


def build_tiny_judges(folder: Path) -> Path:
    """Untrained judges in the layout of core/bundled/judges: two of timm's smallest ResNets and an open_clip
    model.
    """
    for seed, (kind, classes) in enumerate(
        (("concept", TINY_VOCABULARY["concepts"]), ("style", TINY_VOCABULARY["styles"]))
    ):
        torch.manual_seed(seed)
        (folder / kind).mkdir(parents=True)
        config = {
            "architecture": "test_resnet",
            "classes": classes,
            "input_size": 64,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        }
        (folder / kind / "config.json").write_text(json.dumps(config))
        save_file(
            timm.create_model("test_resnet", num_classes=len(classes)).state_dict(),
            folder / kind / "model.safetensors",
        )
    (folder / "clip").mkdir()
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "clip" / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    network = open_clip.model.CLIP(**model)
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()},
        folder / "clip" / "open_clip_model.safetensors",
    )
    return folder


@pytest.fixture(scope="session")
def tiny_judged(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with judges of its own beside it."""
    folder = tmp_path_factory.mktemp("tiny_judged") / "model"
    shutil.copytree(tiny_sd, folder)
    build_tiny_judges(folder / "judges")
    return folder


@pytest.fixture(autouse=True, scope="session")
def offline() -> Iterator[None]:
    """No test reaches for the hub: what is not there is reported as not there, at once."""
    import huggingface_hub.constants as hub

    was, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    yield
    hub.HF_HUB_OFFLINE = was

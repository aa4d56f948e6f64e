"""A tiny, randomly initialised Stable Diffusion in the diffusers layout: real parts, for tests of
plumbing.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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


def build_tiny_sd(folder: Path, seed: int = 0, side: int = 16) -> Path:
    """Save a pipeline of some 0.9 M random parameters: 64 px pictures, 16x16x4 latents (or of another side,
    times 4), a text encoder 32 wide.
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
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
    # A fresh text encoder's outputs and attention are so small that prompts would hardly matter; this makes
    # them matter.
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "attn2" in name and name.endswith(".weight"):
                weight.mul_(3)
    vae = AutoencoderKL(
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
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "vocabulary.json").write_text(json.dumps(TINY_VOCABULARY))
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

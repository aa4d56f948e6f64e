"""The fused checkpoint in one file: diffusers reads it back, tensor by tensor, through its own converters."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils as stock
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from expunge.core.delivery import single_file
from expunge.core.delivery.fused import fuse, write_single
from expunge.core.erasure import erase
from expunge.core.models import load_model
from expunge.core.specs import EraseSpec
from expunge.core.tensors import write

METHODS = [
    {"name": "esd", "steps": 1, "sampling_steps": 3, "trajectories": 1, "batch_size": 1},
    {"name": "text_encoder", "steps": 1},
    {"name": "prune", "steps": 1, "method": {"name": "esd", "batch_size": 1}},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_the_file_holds_what_the_folder_holds(tiny_sd: Path, tmp_path: Path, method: dict[str, object]):
    model = load_model(tiny_sd)
    delta = erase(model, EraseSpec(concepts=["church"], method=method))
    delta.labels = {"concept_erasure.concepts": "[]", "modelspec.hash_sha256": "0"}
    fuse(model, str(tiny_sd), delta.save(tmp_path), tmp_path)
    with zipfile.ZipFile(tmp_path / "fused.zip") as archive:
        archive.extractall(tmp_path)
    folder = StableDiffusionPipeline.from_pretrained(tmp_path / "fused", safety_checker=None)
    single = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "fused.safetensors"), config=str(tmp_path / "fused"), safety_checker=None
    )
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(folder, part).state_dict(), getattr(single, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with safe_open(tmp_path / "fused.safetensors", "pt") as file:
        about = file.metadata()
    assert about["concept_erasure.concepts"] == "[]"
    assert not {"modelspec.hash_sha256", "concept_erasure.delta_kind"} & about.keys()  # the delta's own

    # The same again gives the same bytes
    first = (tmp_path / "fused.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "fused")
    fuse(model, str(tiny_sd), tmp_path / delta.file, tmp_path)
    assert (tmp_path / "fused.safetensors").read_bytes() == first


def published() -> dict[str, torch.nn.Module]:
    """Networks of Stable Diffusion 1.5's configuration, without weights."""
    blocks = (128, 256, 512, 512)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=blocks,
            layers_per_block=2,
        )
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12))
    return {"unet": unet, "vae": vae, "text_encoder": text}


def test_stable_diffusion_15_has_its_published_names():
    networks = published()
    made = single_file.renamed({p: n.state_dict() for p, n in networks.items()})
    for name, shape in {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
        "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    }.items():
        assert tuple(made[name].shape) == shape
    counts = [sum(name.startswith(part) for name in made) for part in ("model.", "first_", "cond_")]
    assert counts == [686, 248, 196]  # as in the published file, which has a buffer of positions more

    back = stock.convert_ldm_unet_checkpoint(dict(made), networks["unet"].config)
    assert {k: v.shape for k, v in back.items()} == {
        k: v.shape for k, v in networks["unet"].state_dict().items()
    }
    back = stock.convert_ldm_vae_checkpoint(dict(made), networks["vae"].config)
    assert {k: v.shape for k, v in back.items()} == {
        k: v.shape for k, v in networks["vae"].state_dict().items()
    }


def test_the_text_encoder_of_stable_diffusion_2_has_openclips_names():
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=1024, intermediate_size=64, num_hidden_layers=2, num_attention_heads=16, vocab_size=50
    )
    text = CLIPTextModel(config)
    state = {name.removeprefix("text_model."): tensor for name, tensor in text.state_dict().items()}
    made = single_file.open_clip_tensors(state)
    assert made["cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight"].shape == (3072, 1024)
    assert stock.is_open_clip_model(dict(made))
    back = stock.convert_open_clip_checkpoint(text, dict(made), prefix="cond_stage_model.model.")
    back = {name.removeprefix("text_model."): tensor for name, tensor in back.items()}
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_a_network_of_other_blocks_has_no_such_file(tmp_path: Path):
    """It is still fused, as a folder."""
    networks = {part: network.state_dict() for part, network in published().items()}
    odd = networks["unet"] | {"down_blocks.0.resnets.0.norm1.linear.weight": torch.ones(1)}
    assert single_file.renamed(networks | {"unet": odd}) is None
    write_single(networks | {"unet": odd}, tmp_path, tmp_path / "delta", tmp_path / "fused.safetensors")
    assert not (tmp_path / "fused.safetensors").exists()


def test_a_file_that_is_written_tensor_by_tensor_is_read_back(tmp_path: Path):
    made = {
        "b": torch.arange(3, dtype=torch.float16),
        "a": torch.randn(2, 3),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "bits": torch.tensor([1, 2, 255], dtype=torch.uint8),
        "transposed": torch.randn(4, 2).T,
        "none": torch.zeros(0, 3),
    }
    write(tmp_path / "x.safetensors", made, {"format": "pt", "a": "é"})
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == made.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in made.items())
    data = (tmp_path / "x.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"a": "é", "format": "pt"}

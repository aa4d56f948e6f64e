"""A LoRA in the names of other tools: the same LoRA, by the maps that these tools read it with."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load, load_file, save_file
from typer.testing import CliRunner

from expunge.client.cli import app
from expunge.core.delivery import manifest
from expunge.core.delivery.convert import Format, convert, convert_file
from expunge.core.delta_format import KOHYA_FILE, LORA_FILE, BadDelta, kohya
from expunge.core.erasure import erase
from expunge.core.models import load_model, lora_factors
from expunge.core.specs import EraseSpec

PROMPTS, SEEDS = ["a photo of a church", "a dog"], [3, 4]
FEW = {"steps": 2, "sampling_steps": 3, "trajectories": 1, "batch_size": 1, "learning_rate": 0.05}
MADE: dict[str, dict[str, Any]] = {
    "cross-attention": {"name": "esd", **FEW},
    "every layer": {"name": "esd", **FEW, "lora": {"target_modules": "full", "rank": 2, "alpha": 5}},
    "text encoder": {"name": "text_encoder", "steps": 2, "learning_rate": 0.05},
    "exact, ranks that differ": {"name": "uce"},
}


def drawn(pipe: StableDiffusionPipeline) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    noise = torch.stack([torch.randn((4, 16, 16), generator=torch.Generator().manual_seed(s)) for s in SEEDS])
    return pipe(PROMPTS, latents=noise, num_inference_steps=3, output_type="np").images


@pytest.mark.parametrize("made", MADE)
def test_stock_diffusers_loads_a_delta_in_kohyas_names_and_draws_the_same(
    tiny_sd: Path, tmp_path: Path, made: str
):
    model = load_model(tiny_sd)
    delta = erase(model, EraseSpec(concepts=["church"], method=MADE[made]))
    (tmp_path / KOHYA_FILE).write_bytes(convert_file(delta.save(tmp_path), Format.KOHYA))
    assert all(kohya.is_kohya(name) for name in load_file(tmp_path / KOHYA_FILE))

    stock = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    base = drawn(stock)
    stock.load_lora_weights(tmp_path, weight_name=KOHYA_FILE)
    inside = drawn(model.pipe)
    np.testing.assert_allclose(drawn(stock), inside, atol=1e-3)
    assert np.abs(inside - base).max() > 0.02  # the delta does something

    again = load_model(tiny_sd)
    again.load_delta(tmp_path / KOHYA_FILE)
    np.testing.assert_array_equal(drawn(again.pipe), inside)


@pytest.mark.parametrize(("alpha", "rslora"), [(4.0, False), (10.0, False), (3.0, True)])
def test_there_and_back_the_factors_are_the_same_and_scaled_the_same(alpha: float, rslora: bool):
    layers = ["unet.mid_block.resnets.0.conv1", "text_encoder.encoder.layers.0.self_attn.q_proj"]
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator).bfloat16()
        for name, shape in {
            "unet.mid_block.resnets.0.conv1.lora_A.weight": (4, 8, 3, 3),
            "unet.mid_block.resnets.0.conv1.lora_B.weight": (8, 4, 1, 1),
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": (2, 8),
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": (8, 2),
        }.items()
    }
    first = read(tensors, settings(alpha, rslora))
    there = opened(convert(tensors, settings(alpha, rslora), Format.KOHYA))
    assert sorted(read(*there)) == sorted(layers)
    back = opened(convert(*there, Format.DIFFUSERS))
    assert sorted(back[0]) == sorted(tensors)
    for layer in layers:
        down, up, scale = first[layer]
        for found in (read(*there)[layer], read(*back)[layer]):
            assert torch.equal(found[0], down)
            assert torch.equal(found[1], up)
            assert found[2] == pytest.approx(scale, rel=1e-6)


def settings(alpha: float, rslora: bool) -> dict[str, str]:
    one = {"r": 4, "lora_alpha": alpha, "use_rslora": rslora, "target_modules": ["conv1", "q_proj"]}
    parts = {f"unet.{k}": v for k, v in one.items()} | {
        f"text_encoder.{k}": v for k, v in (one | {"r": 2}).items()
    }
    return {"lora_adapter_metadata": json.dumps(parts), "modelspec.architecture": "stable-diffusion-v1/lora"}


def read(
    tensors: dict[str, torch.Tensor], metadata: dict[str, str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    pairs = lora_factors.read(tensors, metadata)
    return {layer: (tensors[pair.down], tensors[pair.up], pair.scale) for layer, pair in pairs.items()}


def opened(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    end = 8 + int.from_bytes(data[:8], "little")
    return load(data), json.loads(data[8:end])["__metadata__"]


LORA = {
    "unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(4, 8),
    "unet.mid_block.attentions.0.proj_in.lora_B.weight": torch.ones(8, 4),
}


def test_the_metadata_are_what_kohyas_readers_look_for():
    about = {"modelspec.architecture": "stable-diffusion-v1/lora", "concept_erasure.seed": "7", "ss_old": "x"}
    _, metadata = opened(convert(LORA, about, Format.KOHYA))
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "4.0")
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["concept_erasure.seed"] == "7"
    assert "ss_old" not in metadata
    assert not any(name.startswith("modelspec.") for name in metadata.keys() - about.keys())


def test_what_the_file_says_of_its_own_tensors_is_not_said_of_the_others():
    about = {"modelspec.hash_sha256": "0", "modelspec.usage_hint": "Mine.", "modelspec.implementation": "x"}
    _, metadata = opened(convert(LORA, about, Format.KOHYA))
    assert "modelspec.hash_sha256" not in metadata
    assert metadata["modelspec.implementation"] == "kohya"
    assert metadata["modelspec.usage_hint"] == "Mine."  # of a LoRA that erases nothing
    ours = about | {"concept_erasure.concepts": "[]"}
    assert "Without it" in opened(convert(LORA, ours, Format.KOHYA))[1]["modelspec.usage_hint"]


# --- the maps of other tools, rebuilt as data --------------------------------------------------------------


def sd15() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8
        )


def layers(network: torch.nn.Module) -> list[str]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [name for name, module in network.named_modules() if isinstance(module, kinds)]


def comfyui() -> Iterator[str]:
    """The layers that ComfyUI knows of a U-Net of SD 1.5: its maps from CompVis's names to diffusers'."""
    inside = [f"attn{n}.{leaf}" for n in (1, 2) for leaf in ("to_q", "to_k", "to_v", "to_out.0")]
    transformer = [f"transformer_blocks.0.{leaf}" for leaf in (*inside, "ff.net.0.proj", "ff.net.2")]
    attention = ["proj_in", "proj_out", *transformer]
    resnet = ["conv1", "conv2", "time_emb_proj", "conv_shortcut"]
    for side, blocks, count in (("down", 4, 2), ("up", 4, 3)):
        for block in range(blocks):
            for n in range(count):
                yield from (f"{side}_blocks.{block}.resnets.{n}.{leaf}" for leaf in resnet)
                yield from (f"{side}_blocks.{block}.attentions.{n}.{leaf}" for leaf in attention)
            yield f"{side}_blocks.{block}.{side}samplers.0.conv"
    yield from (f"mid_block.resnets.{n}.{leaf}" for n in (0, 1) for leaf in resnet)
    yield from (f"mid_block.attentions.0.{leaf}" for leaf in attention)
    yield from ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")


def test_comfyui_knows_every_layer_of_sd15_by_the_name_it_has_in_our_file():
    known = {f"lora_unet_{layer.replace('.', '_')}" for layer in comfyui()}
    for layer in layers(sd15()):
        assert kohya.tensor_name("unet", layer, "A").removesuffix(".lora_down.weight") in known


def compvis(key: str) -> str | None:
    """The module of CompVis's network that A1111 finds for a layer of a LoRA; None where it finds none."""
    tail = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    tail |= {"conv_shortcut": "skip_connection"}
    if match := re.fullmatch(r"lora_unet_conv_(in|out)", key):
        return {"in": "diffusion_model_input_blocks_0_0", "out": "diffusion_model_out_2"}[match[1]]
    if match := re.fullmatch(r"lora_unet_time_embedding_linear_(\d+)", key):
        return f"diffusion_model_time_embed_{int(match[1]) * 2 - 2}"
    if match := re.fullmatch(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", key):
        side, block, kind, n, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        place = 1 + 3 * block + n if side == "down" else 3 * block + n
        blocks = "input_blocks" if side == "down" else "output_blocks"
        inner = tail.get(rest, rest) if kind == "resnets" else rest
        return f"diffusion_model_{blocks}_{place}_{int(kind == 'attentions')}_{inner}"
    if match := re.fullmatch(r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)", key):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"diffusion_model_middle_block_{place}_{tail.get(match[3], match[3])}"
    if match := re.fullmatch(r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv", key):
        return f"diffusion_model_input_blocks_{3 + 3 * int(match[1])}_0_op"
    if match := re.fullmatch(r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv", key):
        block = int(match[1])
        return f"diffusion_model_output_blocks_{2 + 3 * block}_{2 if block else 1}_conv"
    if match := re.fullmatch(r"lora_te_text_model_encoder_layers_(\d+)_(.+)", key):
        return f"transformer_text_model_encoder_layers_{match[1]}_{match[2]}"
    return None


def test_a1111_finds_another_module_of_compvis_for_every_layer_of_sd15():
    keys = [kohya.tensor_name("unet", layer, "alpha").removesuffix(".alpha") for layer in layers(sd15())]
    found = [compvis(key) for key in keys]
    assert None not in found
    assert len(set(found)) == len(keys)


def test_kohyas_own_trainer_names_the_layers_of_its_blocks_as_our_file_does():
    """It takes what is named after the modules inside a Transformer2DModel, a ResnetBlock2D, a Downsample2D
    or an Upsample2D: the prefix, the block's name and the layer's, the dots made underscores.
    """
    network = sd15()
    named = {
        f"lora_unet.{block}.{layer}".replace(".", "_")
        for block, module in network.named_modules()
        if type(module).__name__ in ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
        for layer in layers(module)
    }
    ours = {kohya.tensor_name("unet", layer, "alpha").removesuffix(".alpha") for layer in layers(network)}
    beside = {"conv_in", "conv_out", "time_embedding_linear_1", "time_embedding_linear_2"}
    assert ours - named == {f"lora_unet_{layer}" for layer in beside}


# --- what is delivered, and the command ---------------------------------------------------------------------


def test_a_bundle_holds_the_lora_in_kohyas_names_and_its_certificate_is_about_both(bundle: Path):
    assert convert_file(bundle / LORA_FILE, Format.KOHYA) == (bundle / KOHYA_FILE).read_bytes()
    statement = manifest.derive_statement(bundle, (bundle / "manifest.json").read_bytes())
    subjects = {each.name: each.digest["sha256"] for each in statement.subject}
    for name in (LORA_FILE, KOHYA_FILE):
        assert subjects[name] == manifest.sha256(bundle / name)
    assert KOHYA_FILE in (bundle / "README.md").read_text()


def test_the_command_writes_a_file_and_overwrites_none(bundle: Path, tmp_path: Path):
    run, out = CliRunner(), tmp_path / "out.safetensors"
    done = run.invoke(app, ["convert", str(bundle / LORA_FILE), str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == (bundle / KOHYA_FILE).read_bytes()
    again = run.invoke(app, ["convert", str(bundle / LORA_FILE), str(out)])
    assert (again.exit_code, "is there already" in again.output) == (1, True)
    for given in ([str(tmp_path / "none"), str(tmp_path / "x")], [str(out), str(tmp_path / "no/folder")]):
        failed = run.invoke(app, ["convert", *given])
        assert (failed.exit_code, "No such file" in failed.output) == (1, True)
    back = tmp_path / "back.safetensors"
    assert run.invoke(app, ["convert", str(out), str(back), "--to", "diffusers"]).exit_code == 0
    ours, theirs = load_file(bundle / LORA_FILE), load_file(back)
    assert sorted(ours) == sorted(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_sparse_mask_is_refused_with_the_way_out(tmp_path: Path):
    save_file({"unet.conv_in.pruned": torch.zeros(8, dtype=torch.uint8)}, tmp_path / "mask.safetensors")
    with pytest.raises(BadDelta, match="fused checkpoint"):
        convert_file(tmp_path / "mask.safetensors", Format.KOHYA)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(BadDelta, match="is not a safetensors file"):
        convert_file(tmp_path / "text.safetensors", Format.KOHYA)

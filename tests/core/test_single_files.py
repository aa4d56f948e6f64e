"""Checkpoints in one file: what is one, what else such a file is, and that it is the model that it was made
from.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from typer.testing import CliRunner

from expunge.client.cli import app
from expunge.core import layouts, published, single_files, sources
from expunge.core.delivery import card, fused, single_file
from expunge.core.delta_format.check import check_delta
from expunge.core.delta_format.container import Container, Entry, read_container
from expunge.core.erasure import erase
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.specs import EraseSpec

TEXT = "text_encoder/config.json"
SHORT = {"name": "esd", "steps": 1, "sampling_steps": 3, "trajectories": 1, "batch_size": 1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPUNGE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


@pytest.fixture
def checkpoint(tiny_sd: Path, tmp_path: Path) -> Path:
    """The tiny model in one file."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    save_file({"x": torch.zeros(1)}, tmp_path / "delta.safetensors")
    parts = {part: getattr(pipe, part).state_dict() for part in layouts.WEIGHTS}
    fused.write_single(parts, tiny_sd, tmp_path / "delta.safetensors", tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_a_model_in_one_file_is_the_model_of_its_folder(checkpoint: Path, tiny_sd: Path):
    one, folder = load_model(checkpoint), load_model(tiny_sd)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(one.pipe, part).state_dict(), getattr(folder.pipe, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert one.vocabulary == folder.vocabulary
    np.testing.assert_array_equal(
        one.draw(["a church"], [1], steps=2), folder.draw(["a church"], [1], steps=2)
    )


def test_the_card_says_how_stock_diffusers_loads_the_base_model(checkpoint: Path, tiny_sd: Path):
    assert card.loading(sources.parse(checkpoint)).startswith("from_single_file(")
    assert card.loading(sources.parse(tiny_sd)) == 'from_pretrained("path/to/the/base/model")'
    assert card.loading(sources.parse("a/b@main")) == 'from_pretrained("a/b")'


def test_it_is_erased_from_and_its_delta_fits(checkpoint: Path, tmp_path: Path):
    model = load_model(checkpoint)
    delta = erase(model, EraseSpec(concepts=["church"], method=SHORT))
    check_delta(delta.save(tmp_path / "out"), str(checkpoint))
    fused.fuse(model, str(checkpoint), tmp_path / "out" / delta.file, tmp_path / "out")
    again = load_model(tmp_path / "out" / "fused.safetensors")
    assert again.digest != model.digest
    assert again.vocabulary == model.vocabulary


def test_its_digest_is_the_same_on_every_host_and_another_once_it_has_changed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = load_model(checkpoint).digest
    monkeypatch.setenv("EXPUNGE_CACHE_DIR", str(tmp_path / "another host"))
    other = tmp_path / "renamed.safetensors"
    shutil.copy(checkpoint, other)
    assert load_model(other).digest == first
    pinned = CliRunner().invoke(app, ["check-model", str(other)])
    assert (pinned.exit_code, f"sha256:{first}" in pinned.output) == (0, True)
    assert load_model(f"{other}#sha256:{first}").digest == first

    save_file(load_file(other), other)  # without its metadata
    with pytest.raises(CoreError, match="sizes that were never published"):
        load_model(other)


def test_it_is_laid_out_once_and_a_killed_attempt_leaves_nothing_for_good(checkpoint: Path, own_cache: Path):
    folder = single_files.place_of(checkpoint)
    assert not folder.exists()
    assert sources.folder_of(checkpoint) is None  # the api never lays one out
    old, new = (own_cache / f"{folder.name}.partial-{name}" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir(parents=True)
    os.utime(old, (time.time() - 2 * single_files.ABANDONED,) * 2)
    assert single_files.unpacked(checkpoint) == folder
    assert sorted(each.name for each in own_cache.iterdir()) == sorted([folder.name, new.name])
    made = folder.stat().st_mtime_ns
    assert single_files.unpacked(checkpoint) == folder
    assert folder.stat().st_mtime_ns == made
    assert sources.folder_of(checkpoint) == folder
    assert sources.check("mine", str(checkpoint)).architecture == "Stable Diffusion"


def test_one_that_breaks_off_is_refused_and_leaves_no_folder(checkpoint: Path, own_cache: Path):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[:-1000])
    with pytest.raises(CoreError, match="fetch it again"):
        load_model(checkpoint)
    assert not own_cache.exists() or list(own_cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EXPUNGE_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(CoreError, match="EXPUNGE_CACHE_DIR") as refused:
        load_model(checkpoint)
    assert (refused.value.code, refused.value.retryable) == ("model_not_fetched", True)


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "unet/model.safetensors"])
def test_metadata_may_name_only_small_files_of_the_folder(
    checkpoint: Path, tmp_path: Path, own_cache: Path, name: str
):
    save_file(
        load_file(checkpoint),
        tmp_path / "evil.safetensors",
        metadata={single_files.FOLDER_KEY: json.dumps({name: "{}", TEXT: '{"num_hidden_layers": 2}'})},
    )
    with pytest.raises(CoreError, match="names the file"):
        load_model(tmp_path / "evil.safetensors")
    assert not own_cache.exists()


# --- the published models, without their weights ------------------------------------------------------------


def networks(architecture: str) -> dict[str, torch.nn.Module]:
    files = published.files_of(architecture)
    with torch.device("meta"):
        made: dict[str, torch.nn.Module] = {
            "unet": UNet2DConditionModel.from_config(files["unet/config.json"]),
            "vae": AutoencoderKL.from_config(files["vae/config.json"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**files["text_encoder/config.json"])),
        }
        if "text_encoder_2/config.json" in files:
            config = CLIPTextConfig(**files["text_encoder_2/config.json"])
            made["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return made


def header_of(architecture: str) -> dict[str, Entry]:
    """A published checkpoint's tensors, as its header describes them; of 2.x with the layer that is left
    out.
    """
    second = architecture in (published.SD2_512, published.SD2_768)
    states = {part: dict(network.state_dict()) for part, network in networks(architecture).items()}
    if second:
        text = states["text_encoder"]
        for name in [n for n in text if ".layers.22." in n or n.startswith("encoder.layers.22.")]:
            text[name.replace("layers.22.", "layers.23.")] = text[name]
    made = single_file.renamed(states)
    return {name: Entry("F16", tuple(t.shape), 0, 2 * t.numel()) for name, t in made.items()} | {
        "alphas_cumprod": Entry("F32", (1000,), 0, 4000),
        "model_ema.decay": Entry("F32", (), 0, 4),
        "cond_stage_model.logit_scale": Entry("F32", (), 0, 4),
    }


@pytest.mark.parametrize(
    "architecture", [published.SD1, published.SD2_512, published.SD2_768, published.XL_BASE]
)
def test_a_published_checkpoint_is_known_and_every_tensor_finds_its_place(architecture: str):
    tensors, said = header_of(architecture), {"modelspec.architecture": architecture}
    is_told = architecture in (published.SD1, published.XL_BASE)  # by its tensors
    found = Container(Path("model.safetensors"), tensors, {} if is_told else said)
    assert single_files.architecture_of(found) == architecture
    files = published.files_of(architecture)
    config = files.get("text_encoder_2/config.json", files["text_encoder/config.json"])
    layers = config["num_hidden_layers"]
    laid = single_files.laid_out(found, layers)
    for part, network in networks(architecture).items():
        state = network.state_dict()
        wanted = {name.removeprefix("text_model."): tuple(tensor.shape) for name, tensor in state.items()}
        ours = {name.removeprefix("text_model."): piece.shape for name, piece in laid[part].items()}
        assert {name: ours.get(name) for name in wanted} == wanted
        assert ours.keys() == wanted.keys()


def test_queries_keys_and_values_of_openclip_are_thirds_of_its_matrix():
    entry = Entry("F16", (3072, 1024), 100, 100 + 2 * 3072 * 1024)
    found = single_files.open_clip_pieces({"transformer.resblocks.0.attn.in_proj_weight": entry}, 23)
    begins = [found[f"encoder.layers.0.self_attn.{part}_proj.weight"].start for part in "qkv"]
    assert begins == [100, 100 + 2 * 1024 * 1024, 100 + 4 * 1024 * 1024]


@pytest.mark.parametrize("architecture", [published.SD1, published.XL_BASE])
def test_a_model_that_predicts_v_says_so_by_a_tensor(architecture: str):
    tensors = {"v_pred": Entry("F32", (0,), 0, 0), "ztsnr": Entry("F32", (0,), 0, 0)}
    files = dict(single_files.small_files(Container(Path("x"), tensors, {}), architecture))
    scheduler = json.loads(files["scheduler/scheduler_config.json"])
    assert (scheduler["prediction_type"], scheduler["rescale_betas_zero_snr"]) == ("v_prediction", True)


def test_such_a_model_written_to_one_file_is_read_back_as_one(tiny_sd: Path, tmp_path: Path):
    """By what it says, as one of the published size, which has no small files of its own."""
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "model"))
    schedule = folder / "scheduler/scheduler_config.json"
    told = json.loads(schedule.read_text()) | {"prediction_type": "v_prediction"}
    schedule.write_text(json.dumps(told | {"rescale_betas_zero_snr": True}))
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    parts = {part: getattr(pipe, part).state_dict() for part in layouts.WEIGHTS}
    about = {"modelspec.architecture": f"{published.SD1}/lora"}
    save_file({"x": torch.zeros(1)}, tmp_path / "delta", about)
    fused.write_single(parts, folder, tmp_path / "delta", tmp_path / "mine.safetensors")
    files = dict(single_files.small_files(read_container(tmp_path / "mine.safetensors"), published.SD1))
    read = json.loads(files["scheduler/scheduler_config.json"])
    assert (read["prediction_type"], read["rescale_betas_zero_snr"]) == ("v_prediction", True)


def test_what_is_fused_of_such_a_model_says_so_too():
    assert fused.marks_of({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}) == {}
    assert list(fused.marks_of({"prediction_type": "v_prediction"})) == ["v_pred"]
    both = fused.marks_of({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True})
    assert list(both) == ["v_pred", "ztsnr"]


@pytest.mark.parametrize("architecture", [published.SD1, published.SD2_768, published.XL_BASE])
def test_the_small_files_make_a_layout_that_loads_and_clips_own_tokens(architecture: str, tmp_path: Path):
    for name, text in single_files.small_files(Container(Path("x"), {}, {}), architecture):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    layouts.check_settings(tmp_path)
    layouts.check_scheduler(
        "DDIMScheduler", json.loads((tmp_path / "scheduler/scheduler_config.json").read_text())
    )
    ours, theirs = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"), SimpleTokenizer()
    for text in (
        "a photo of a church",
        "Kilian Eng's STYLE, 1999?",
        "naïve café über 東京 🙂",
        "x-y_z (a:1.2)",
    ):
        ids = ours(text, truncation=True, max_length=77).input_ids
        assert ids == [49406, *theirs.encode(text), 49407]
    assert ours.pad_token_id == (0 if architecture == published.SD2_768 else 49407)
    if architecture == published.XL_BASE:
        second = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer_2")
        assert (second.pad_token_id, second.get_vocab()) == (0, ours.get_vocab())


def changed(tensors: dict[str, Entry], **more: Any) -> dict[str, Entry]:
    return tensors | {name.replace("__", "."): Entry("F16", shape, 0, 0) for name, shape in more.items()}


ONE = Entry("F16", (4, 4), 0, 32)
IN = "model.diffusion_model.input_blocks.0.0.weight"
REFUSED: dict[str, tuple[dict[str, Entry], str]] = {
    "LoRA": ({"lora_unet_mid_block.alpha": ONE}, "POST /artifacts"),
    "LoRA of diffusers": ({"unet.mid_block.to_q.lora_A.weight": ONE}, "POST /artifacts"),
    "SDXL": ({"conditioner.embedders.0.transformer.x": ONE, IN: ONE}, "Stable Diffusion XL"),
    "the refiner of SDXL": ({"conditioner.embedders.0.model.x": ONE, IN: ONE}, "refiner"),
    "an SDXL of other sizes": (
        {
            IN: ONE,
            "first_stage_model.x": ONE,
            "conditioner.embedders.0.transformer.text_model.x": ONE,
            "conditioner.embedders.1.model.x": ONE,
        },
        "never published",
    ),
    "SD 3": ({"model.diffusion_model.joint_blocks.0.x": ONE}, "Stable Diffusion 3"),
    "FLUX": ({"double_blocks.0.img_attn.qkv.weight": ONE}, "FLUX"),
    "FLUX with its other parts": ({"model.diffusion_model.double_blocks.0.x": ONE}, "FLUX"),
    "the U-Net alone": ({"down_blocks.0.resnets.0.conv1.weight": ONE}, "name its folder"),
    "a ControlNet": ({"control_model.input_blocks.0.0.weight": ONE}, "ControlNet"),
    "a VAE": ({"encoder.conv_in.weight": ONE}, "no U-Net"),
    "no VAE": ({IN: ONE}, "no VAE"),
    "8 bits": (
        {IN: Entry("F8_E4M3", (320, 4, 3, 3), 0, 0), "first_stage_model.x": ONE},
        "in F8_E4M3: name the checkpoint in float16",
    ),
    "no text encoder": ({IN: ONE, "first_stage_model.x": ONE}, "no text encoder"),
    "other sizes": (
        {IN: ONE, "first_stage_model.x": ONE, "cond_stage_model.transformer.text_model.x": ONE},
        "never published",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_another_file_is_refused_by_what_it_is(what: str):
    tensors, words = REFUSED[what]
    with pytest.raises(CoreError, match=words) as refused:
        single_files.architecture_of(Container(Path("x.safetensors"), tensors, {}))
    assert (refused.value.code, refused.value.field) == ("model_not_supported", "model")


def test_a_second_generation_that_does_not_say_what_it_predicts_is_refused_with_the_way_out():
    found = Container(Path("v2.safetensors"), header_of(published.SD2_512), {})
    with pytest.raises(CoreError, match="prediction_type='v_prediction' or 'epsilon'"):
        single_files.architecture_of(found)


def test_an_inpainting_model_is_refused_by_its_channels(tmp_path: Path):
    tensors = header_of(published.SD1) | {IN: Entry("F16", (320, 9, 3, 3), 0, 0)}
    with pytest.raises(CoreError, match="inpainting"):
        single_files.architecture_of(Container(tmp_path / "x.safetensors", tensors, {}))


@pytest.mark.parametrize(
    "said",
    [
        "no JSON",
        "[]",
        "{}",
        '{"text_encoder/config.json": "{}"}',
        '{"text_encoder/config.json": "{", "x": "y"}',
    ]
    + [json.dumps({"text_encoder/config.json": json.dumps({"num_hidden_layers": n})}) for n in ("3", None)]
    + [json.dumps({"text_encoder/config.json": '{"num_hidden_layers": 2}', "vae/config.json": 3})],
)
def test_metadata_that_are_no_folder_are_refused_before_anything_is_laid_out(
    checkpoint: Path, tmp_path: Path, own_cache: Path, said: str
):
    broken = tmp_path / "broken.safetensors"
    save_file(load_file(checkpoint), broken, metadata={single_files.FOLDER_KEY: said})
    for ask in (single_files.look, single_files.unpacked):
        with pytest.raises(CoreError) as refused:
            ask(broken)
        assert refused.value.code == "model_broken"
    assert sources.check("mine", str(broken)).code == "model_broken"
    assert not own_cache.exists()


def test_what_a_vaes_training_left_behind_is_not_the_models():
    tensors = header_of(published.SD1) | {
        "first_stage_model.loss.discriminator.num_batches_tracked": Entry("I64", (), 0, 8)
    }
    found = Container(Path("x.safetensors"), tensors, {})
    assert single_files.architecture_of(found) == published.SD1
    assert not any("loss" in name for name in single_files.laid_out(found, 12)["vae"])

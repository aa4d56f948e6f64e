"""LoRA files from other hands: what stock diffusers loads is read, and gives the stock pipeline's pictures;
what is more than a LoRA is refused by name.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from expunge.api import vet_delta
from expunge.api.problems import Problem
from expunge.core.delivery import lora_file
from expunge.core.delta_format.check import check_delta
from expunge.core.erasure import erase
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.models.lora_factors import folded
from expunge.core.specs import EraseSpec

FILE = "pytorch_lora_weights.safetensors"
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
PROMPTS, SEEDS = ["a photo of a church", "a dog"], [3, 4]
Save = Callable[[StableDiffusionPipeline, Path], None]


def pipeline(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def trained(part: torch.nn.Module, **settings: Any) -> dict[str, torch.Tensor]:
    """The part with an adapter that changes what it says, as after a training; the adapter's state in peft's
    names.
    """
    part.add_adapter(
        LoraConfig(
            **{"r": 4, "lora_alpha": 4, "init_lora_weights": "gaussian", "target_modules": ATTENTION}
            | settings
        )
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in part.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape) * 0.4)
    return get_peft_model_state_dict(part)


def script(pipe: StableDiffusionPipeline, out: Path) -> None:
    """As diffusers' train_text_to_image_lora.py does."""
    state = convert_state_dict_to_diffusers(trained(pipe.unet))
    StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=state, safe_serialization=True)


def with_text_encoder(pipe: StableDiffusionPipeline, out: Path) -> None:
    """As train_dreambooth_lora.py does with --train_text_encoder."""
    text = trained(pipe.text_encoder, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"])
    StableDiffusionPipeline.save_lora_weights(
        out,
        unet_lora_layers=convert_state_dict_to_diffusers(trained(pipe.unet)),
        text_encoder_lora_layers=convert_state_dict_to_diffusers(text),
        **_collate_lora_metadata({"unet": pipe.unet, "text_encoder": pipe.text_encoder}),
    )


def saved(dtype: torch.dtype = torch.float32, **settings: Any) -> Save:
    """As the newer scripts do: peft's names, and the settings in the metadata."""

    def save(pipe: StableDiffusionPipeline, out: Path) -> None:
        state = {k: v.to(dtype) for k, v in trained(pipe.unet, **settings).items()}
        StableDiffusionPipeline.save_lora_weights(
            out, unet_lora_layers=state, **_collate_lora_metadata({"unet": pipe.unet})
        )

    return save


def without_metadata(**settings: Any) -> Save:
    def save(pipe: StableDiffusionPipeline, out: Path) -> None:
        StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=trained(pipe.unet, **settings))

    return save


def renaming(pattern: str, by: str, **settings: Any) -> Save:
    """Files of older versions, whose names differ."""

    def save(pipe: StableDiffusionPipeline, out: Path) -> None:
        state = convert_state_dict_to_diffusers(trained(pipe.unet, **settings))
        save_file({re.sub(pattern, by, f"unet.{k}"): v.contiguous() for k, v in state.items()}, out / FILE)

    return save


ODD = {"rank_pattern": {"to_q": 2, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": 6}}
LOADED: dict[str, Save] = {
    "training script": script,
    "dreambooth script": with_text_encoder,
    "metadata": saved(),
    "alpha": saved(lora_alpha=10),
    "alphas": saved(**ODD, alpha_pattern={"to_q": 3, "attn2.to_v": 12}),
    "rslora": saved(use_rslora=True, lora_alpha=3, **ODD),
    "a regular expression of layers": saved(target_modules=r".*attn2\.to_[qkv]"),
    "settings of the training": saved(
        lora_dropout=0.3,
        exclude_modules=["conv_in"],
        task_type="FEATURE_EXTRACTION",
        init_lora_weights="orthogonal",
        revision="main",
    ),
    "convolutions": saved(target_modules=["conv1", "conv2", "conv_in", "proj_in", "to_q"]),
    "half precision": saved(torch.float16),
    "bfloat16": saved(torch.bfloat16, lora_alpha=8),
    "eight bits": saved(torch.float8_e4m3fn),
    "no metadata": without_metadata(),
    "no metadata, ranks that differ": without_metadata(**ODD),
    "processors": renaming(r"\.(to_q|to_k|to_v)\.lora\.|\.to_out\.0\.lora\.", r".processor.\1_lora."),
}
LOADED["processors"] = renaming(
    r"\.(to_q|to_k|to_v)\.lora\.", r".processor.\1_lora.", target_modules=["to_q", "to_k", "to_v"]
)


def drawn(pipe: StableDiffusionPipeline) -> np.ndarray[Any, Any]:
    """By the stock pipeline alone."""
    made = []
    for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
        made.append(
            pipe(
                prompt, num_inference_steps=3, generator=torch.Generator().manual_seed(seed), output_type="np"
            ).images[0]
        )
    return np.stack(made)


def worn(folder: Path, file: Path) -> np.ndarray[Any, Any]:
    """By the stock pipeline of a model that wears the file as the service's jobs do."""
    model = load_model(str(folder))
    model.load_delta(file)
    return drawn(model.pipe)


def header(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as f:
        return f.metadata() or {}


@pytest.mark.parametrize("save", LOADED.values(), ids=list(LOADED))
def test_what_stock_diffusers_loads_is_taken_and_draws_the_same(tiny_sd: Path, tmp_path: Path, save: Save):
    save(pipeline(tiny_sd), tmp_path)
    vet_delta.check(tmp_path / FILE, str(tiny_sd), "tiny")
    check_delta(tmp_path / FILE, str(tiny_sd))
    stock = pipeline(tiny_sd)
    before = drawn(stock)
    stock.load_lora_weights(tmp_path)
    stock.unet.eval()  # a new adapter's dropout is on until then
    assert np.abs(drawn(stock) - before).max() > 0.05
    np.testing.assert_array_equal(worn(tiny_sd, tmp_path / FILE), drawn(stock))


def unet_alone(pipe: StableDiffusionPipeline, out: Path) -> None:
    trained(pipe.unet, lora_alpha=6, **ODD)
    pipe.unet.save_lora_adapter(out)


def peft_folder(pipe: StableDiffusionPipeline, out: Path) -> None:
    model = get_peft_model(pipe.unet, LoraConfig(r=4, lora_alpha=4, target_modules=ATTENTION))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape) * 0.4)
    model.save_pretrained(out)
    (out / "adapter_model.safetensors").rename(out / FILE)


def whole_state(pipe: StableDiffusionPipeline, out: Path) -> None:
    """Names as they stand in the network, the adapter's among them."""
    trained(pipe.unet)
    save_file(
        {f"unet.{k}": v.contiguous() for k, v in pipe.unet.state_dict().items() if "lora_" in k}, out / FILE
    )


def alpha_tensors(pipe: StableDiffusionPipeline, out: Path) -> None:
    state = convert_state_dict_to_diffusers(trained(pipe.unet, lora_alpha=6))
    layers = sorted({k.split(".lora.")[0] for k in state})
    save_file(
        {k if k.endswith("alpha") else f"unet.{k}": v for k, v in state.items()}
        | {f"unet.{k}.alpha": torch.tensor(6.0) for k in layers},
        out / FILE,
    )


def kohya(pipe: StableDiffusionPipeline, out: Path) -> None:
    made = {}
    for name, tensor in trained(pipe.unet, lora_alpha=6).items():
        layer, half = name.removesuffix(".weight").rsplit(".lora_", 1)
        flat = f"lora_unet_{layer.replace('.', '_')}"
        made |= {
            f"{flat}.lora_{ {'A': 'down', 'B': 'up'}[half] }.weight": tensor.contiguous(),
            f"{flat}.alpha": torch.tensor(6.0),
        }
    save_file(made, out / FILE)


@pytest.mark.parametrize("save", [unet_alone, peft_folder, whole_state, alpha_tensors, kohya])
def test_other_spellings_of_the_same_tensors_draw_what_the_trained_network_draws(
    tiny_sd: Path, tmp_path: Path, save: Save
):
    pipe = pipeline(tiny_sd)
    save(pipe, tmp_path)
    vet_delta.check(tmp_path / FILE, str(tiny_sd), "tiny")
    check_delta(tmp_path / FILE, str(tiny_sd))
    np.testing.assert_array_equal(worn(tiny_sd, tmp_path / FILE), drawn(pipe))


def changed(**more: Any) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: state | {name: torch.ones(value) for name, value in more.items()}


Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
REFUSED = [
    ({"use_dora": True}, {}, "use_dora|lora_magnitude_vector", "use_dora"),
    ({"lora_bias": True, "init_lora_weights": True}, {}, r"lora_B\.bias", "lora_bias=False"),
    ({}, {f"unet.{Q}.dora_scale": (32, 1)}, "dora_scale", "use_dora"),
    ({}, {f"unet.{Q}.lokr_w1": (4, 4)}, "lokr_w1", "another adapter"),
    ({}, {f"unet.{Q}.lora.down.weight": (4, 32)}, r"to_q\.lora", "Leave one of the two out"),
    ({}, {f"unet.{Q}.weight": (32, 32)}, r"to_q\.weight", "save_lora_weights"),
    ({}, {f"text_encoder_2.{Q}.lora_A.weight": (4, 32)}, "text_encoder_2", "another architecture"),
    ({}, {f"unet.{Q}.alpha": ()}, r"to_q\.alpha", "Leave one of the two out"),
    ({}, {"lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": ()}, "lora_te1", "expunge models"),
    ({}, {"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": ()}, "lora_te2", "expunge models"),
    ({}, {"lora_unet_double_blocks_0_img_attn_qkv.alpha": ()}, "double_blocks", "another architecture"),
    ({}, {"lora_unet_input_blocks_1_1_proj_in.alpha": ()}, "input_blocks", "after diffusers' layers"),
    ({}, {f"lora_unet_{Q.replace('.', '_')}.hada_w1_a": (4, 4)}, "hada_w1_a", "another adapter"),
    ({}, {f"lora_unet_{Q.replace('.', '_')}.dora_scale": (32, 1)}, "dora_scale", "use_dora"),
    ({}, {f"lora_unet_{Q.replace('.', '_')}.lora_mid.weight": (4, 4, 3, 3)}, "lora_mid", "use_tucker off"),
    ({}, {f"lora_unet_{Q.replace('.', '_')}.lora_up.weight": (32, 4)}, "to_q", "Leave one of the two out"),
]


@pytest.mark.parametrize(("settings", "more", "name", "remedy"), REFUSED)
def test_what_is_more_than_a_lora_is_refused_by_its_name_with_a_remedy(
    tiny_sd: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    more: dict[str, tuple[int, ...]],
    name: str,
    remedy: str,
):
    saved(**settings)(pipeline(tiny_sd), tmp_path)
    if more:
        state = load_file(tmp_path / FILE) | {key: torch.ones(shape) for key, shape in more.items()}
        save_file(state, tmp_path / FILE, metadata=header(tmp_path / FILE))
    refused(tiny_sd, tmp_path / FILE, name, remedy)


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("init_lora_weights", "pissa_niter_16", "path_initial_model"),
        ("init_lora_weights", "OLORA", "path_initial_model"),
        ("bias", "lora_only", "bias="),
        ("modules_to_save", ["conv_in"], "modules_to_save"),
        ("not_of_this_peft", {"x": 1}, "leave the metadata out"),
        ("lora_alpha", 10**400, "leave the metadata out"),
    ],
)
def test_a_setting_that_alters_more_than_the_layers_is_refused_by_its_name(
    tiny_sd: Path, tmp_path: Path, setting: str, value: Any, remedy: str
):
    saved()(pipeline(tiny_sd), tmp_path)
    config = json.loads(header(tmp_path / FILE)[LORA_ADAPTER_METADATA_KEY]) | {f"unet.{setting}": value}
    save_file(
        load_file(tmp_path / FILE), tmp_path / FILE, metadata={LORA_ADAPTER_METADATA_KEY: json.dumps(config)}
    )
    refused(tiny_sd, tmp_path / FILE, setting, remedy)


def refused(model: Path, file: Path, name: str, remedy: str) -> None:
    """By the api and by the worker, in the same words."""
    with pytest.raises(Problem) as found:
        vet_delta.check(file, str(model), "tiny")
    (error,) = found.value.errors
    assert re.search(name, error.field)
    assert remedy in f"{error.message} {error.remedy}"
    with pytest.raises(CoreError, match=name) as worker:
        check_delta(file, str(model))
    assert f"{error.field}: {error.message}. {error.remedy}" in worker.value.message


@pytest.mark.parametrize("name", ["alphas", "rslora", "metadata"])
def test_a_file_folded_into_the_weights_is_the_file_worn(tiny_sd: Path, tmp_path: Path, name: str):
    LOADED[name](pipeline(tiny_sd), tmp_path)
    stock = pipeline(tiny_sd)
    stock.load_lora_weights(tmp_path)
    stock.fuse_lora()
    config = json.loads(header(tmp_path / FILE)[LORA_ADAPTER_METADATA_KEY])
    model = load_model(str(tiny_sd))
    with folded(model.unet, load_file(tmp_path / FILE), config):
        np.testing.assert_allclose(drawn(model.pipe), drawn(stock), atol=1e-3)


TUNED = {"steps": 3, "sampling_steps": 3, "trajectories": 1, "batch_size": 2, "learning_rate": 0.03}


@pytest.mark.parametrize(
    "method",
    [
        {"name": "esd", **TUNED, "lora": {"rank": 4, "alpha": 13}},
        {"name": "text_encoder", "steps": 3, "learning_rate": 0.03, "lora": {"rank": 2, "alpha": 9}},
    ],
    ids=["U-Net", "text encoder"],
)
def test_what_is_delivered_is_as_strong_for_a_reader_of_no_metadata(
    tiny_sd: Path, tmp_path: Path, method: dict[str, Any]
):
    model, spec = load_model(str(tiny_sd)), EraseSpec(concepts=["church"], method=method)
    delta = erase(model, spec)
    (tmp_path / FILE).write_bytes(lora_file.to_bytes(delta, model, spec))
    with_metadata, without = pipeline(tiny_sd), pipeline(tiny_sd)
    before = drawn(without)
    with_metadata.load_lora_weights(tmp_path / FILE)
    without.load_lora_weights(load_file(tmp_path / FILE))
    assert np.abs(drawn(without) - before).max() > 0.05
    np.testing.assert_array_equal(drawn(without), drawn(with_metadata))
    np.testing.assert_array_equal(drawn(without), drawn(model.pipe))  # which is judged

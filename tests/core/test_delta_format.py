"""The delta's format, read without torch: the layers that torch finds, and one decision for both sides."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from expunge.api import vet_delta
from expunge.api.problems import Problem
from expunge.core.delta_format.check import check_delta, layer_shapes
from expunge.core.errors import CoreError
from expunge.core.models import load_model

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def lora(**changed: np.ndarray) -> dict[str, np.ndarray]:
    halves = {"lora_A": np.ones((2, 32), np.float32), "lora_B": np.ones((32, 2), np.float32)} | changed
    return {f"{LAYER}.{half}.weight": tensor for half, tensor in halves.items()}


def test_the_headers_name_the_layers_that_torch_finds_in_the_model(tiny_sd: Path):
    pipe = load_model(str(tiny_sd)).pipe
    found = {}
    for component, part in {"unet": pipe.unet, "text_encoder": pipe.text_encoder}.items():
        for name, module in part.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                inner = name.removeprefix("text_model.") if component == "text_encoder" else name
                found[f"{component}.{inner}"] = tuple(module.weight.shape)
    assert layer_shapes(tiny_sd) == found


def test_a_models_damaged_file_is_not_the_deltas_fault(tiny_sd: Path, tmp_path: Path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "x.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CoreError, match=r"the model's unet/x\.safetensors") as error:
        layer_shapes(tmp_path)
    assert (error.value.code, error.value.field) == ("model_broken", "model")
    save_file(lora(), tmp_path / "delta")
    vet_delta.check(tmp_path / "delta", str(tmp_path), "broken")


@pytest.mark.parametrize(
    ("tensors", "metadata", "upload", "job"),
    [
        (lora(lora_A=np.ones((2, 31), np.float32)), {}, "delta_does_not_fit", "delta_does_not_fit"),
        (lora(lora_A=np.ones((2, 32), np.int32)), {}, "delta_does_not_fit", "delta_not_finite"),
        (lora(), {"unet.use_dora": True}, "delta_does_not_fit", "bad_delta"),
        (lora(lora_A=np.full((2, 32), np.nan, np.float16)), {}, "delta_not_finite", "delta_not_finite"),
        (lora(lora_A=np.full((2, 32), 1e300)), {}, "delta_not_finite", "delta_not_finite"),
    ],
    ids=["shape", "integers", "settings", "NaN", "no float32"],
)
def test_an_upload_and_a_job_refuse_the_same_file_each_by_its_own_code(
    tiny_sd: Path, tmp_path: Path, tensors: dict, metadata: dict, upload: str, job: str
):
    said = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None
    save_file(tensors, tmp_path / "delta", metadata=said)
    with pytest.raises(Problem) as problem:
        vet_delta.check(tmp_path / "delta", str(tiny_sd), "tiny")
    with pytest.raises(CoreError) as error:
        check_delta(tmp_path / "delta", str(tiny_sd))
    assert (problem.value.kind.code, error.value.code) == (upload, job)

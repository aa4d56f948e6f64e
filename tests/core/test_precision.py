"""What a model computes in: the dtype it is loaded in, and that every method is finite and near float32 in each."""

import pytest
import torch

from core.errors import CoreError
from core.models import load_model


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.bfloat16, torch.float32])
def test_a_model_is_loaded_in_the_dtype_asked_for_by_name_or_as_torchs(tiny_sd, dtype):
    model = load_model(tiny_sd, device="cpu", dtype=dtype)
    assert str(model.dtype).removeprefix("torch.") == str(dtype).removeprefix("torch.")
    assert {p.dtype for part in (model.unet, model.pipe.vae, model.pipe.text_encoder) for p in part.parameters()} == {model.dtype}


def test_a_cpu_computes_in_float32_and_an_unknown_dtype_is_refused_by_name(tiny_sd):
    assert load_model(tiny_sd, device="cpu").dtype == torch.float32
    with pytest.raises(CoreError, match="no model is loaded in 'int8': give float32, float16, bfloat16"):
        load_model(tiny_sd, device="cpu", dtype="int8")


@pytest.mark.parametrize(("has", "wanted"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_bfloat16_where_it_has_it(monkeypatch, has, wanted):
    from core.models import stable_diffusion

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert stable_diffusion.fitting("cuda:0") == wanted

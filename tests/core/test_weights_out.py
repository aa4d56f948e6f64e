from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from expunge.core.delivery import bundle
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.run_context import warn_of_long_texts
from expunge.core.specs import Concept


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_never_signed(tmp_path: Path, bad: float, dtype: torch.dtype):
    save_file(
        {"a": torch.ones(3, dtype=dtype), "b": torch.tensor([1, bad], dtype=dtype)},
        tmp_path / "pytorch_lora_weights.safetensors",
    )
    with pytest.raises(CoreError, match="tensor 'b' holds NaN or infinity") as found:
        bundle.seal(tmp_path, {}, None)
    assert found.value.code == "weights_not_finite"
    assert not (tmp_path / "manifest.json").exists()
    save_file(
        {"a": torch.ones(3, dtype=dtype), "bits": torch.ones(3, dtype=torch.uint8)},
        tmp_path / "pytorch_lora_weights.safetensors",
    )
    assert [file.name for file in bundle.seal(tmp_path, {}, None)] == [
        "pytorch_lora_weights.safetensors",
        "manifest.json",
    ]


def test_a_text_that_the_text_encoder_reads_only_the_beginning_of_is_reported(tiny_sd: Path):
    model, told = load_model(str(tiny_sd)), list[dict]()
    long = " ".join("qx" for _ in range(60))
    warn_of_long_texts(model, [Concept(name="church", target=long)], ["mosque"], told.append)
    assert [report["message"] for report in told] == [
        f"'{long}' is longer than the text encoder's {model.text.max_tokens} tokens; the rest is ignored"
    ]

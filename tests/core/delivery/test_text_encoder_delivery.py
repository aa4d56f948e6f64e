"""A delta on the text encoder: its file, its checks, its fused checkpoint, and the bypass said where a reader
looks.
"""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from expunge.core.delivery.verify import verify
from expunge.core.delta_format.check import check_delta
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.run import run_erase, run_evaluate
from expunge.core.specs import EraseSpec, EvaluateSpec

LORA = "pytorch_lora_weights.safetensors"
EVALUATION = {"erased_images": 2, "preserved_count": 2, "preserved_images": 1, "sampling_steps": 2}
METHOD = {
    "name": "text_encoder",
    "steps": 6,
    "learning_rate": 0.03,
    "ridge": 0,
    "lora": {"rank": 4, "alpha": 8},
}
SPEC = EraseSpec.model_validate(
    {"concepts": ["church"], "method": METHOD, "evaluation": EVALUATION, "fused": True}
)


@pytest.fixture(scope="module")
def done(tiny_judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text") / "bundle"
    run_erase(
        SPEC, out, source=str(tiny_judged), cache=out.parent / "cache", signing_key=out.parent / "key.pem"
    )
    return out


def test_the_bypass_is_in_the_card_the_report_and_the_manifest(done: Path):
    manifest = json.loads((done / "manifest.json").read_text())
    assert manifest["delta"]["changes"] == "text_encoder"
    for text in (
        (done / "README.md").read_text(),
        (done / "report.html").read_text(),
        " ".join(manifest["limits"]),
    ):
        assert "Bypass: with the stock text encoder in its place" in text
        assert "The text encoder and the VAE are the base model's" not in text
    assert verify(done).ok


def test_the_file_says_rank_and_scale_and_names_no_path(done: Path):
    with safe_open(done / LORA, "pt") as f:
        config = json.loads(f.metadata()["lora_adapter_metadata"])
    # Asked for with alpha 8, which is in the tensors
    assert (config["text_encoder.r"], config["text_encoder.lora_alpha"]) == (4, 4)
    assert config["text_encoder.base_model_name_or_path"] is None


def states(pipe: StableDiffusionPipeline) -> torch.Tensor:
    ids = pipe.tokenizer(
        ["church", "a dog"], padding="max_length", max_length=32, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        return pipe.text_encoder(ids)[0]


def test_plain_diffusers_wears_it_and_the_fused_checkpoint_has_it(
    done: Path, tiny_judged: Path, tmp_path: Path
):
    model = load_model(tiny_judged)
    base = model.encode(["church", "a dog"]).states
    model.load_delta(done)
    inside = model.encode(["church", "a dog"]).states
    assert (inside - base).abs().max() > 0.1
    pipe = StableDiffusionPipeline.from_pretrained(tiny_judged, safety_checker=None)
    pipe.load_lora_weights(done)
    torch.testing.assert_close(states(pipe), inside)
    with zipfile.ZipFile(done / "fused.zip") as archive:
        archive.extractall(tmp_path)
    fused = StableDiffusionPipeline.from_pretrained(tmp_path / "fused", safety_checker=None)
    torch.testing.assert_close(states(fused), inside, atol=1e-4, rtol=1e-4)


def test_it_is_judged_as_it_was_in_its_job(done: Path, tiny_judged: Path, tmp_path: Path):
    check_delta(done / LORA, str(tiny_judged))
    spec = EvaluateSpec.model_validate(
        {
            "artifact_id": "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11",
            "concepts": ["church"],
            "evaluation": EVALUATION,
        }
    )
    run_evaluate(
        spec,
        tmp_path / "out",
        source=str(tiny_judged),
        delta=done / LORA,
        concepts=spec.concepts,
        cache=tmp_path / "cache",
    )
    ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (tmp_path / "out", done))
    assert ours["verdict"]["checks"] == theirs["verdict"]["checks"]
    # The neighbours are the base model's, whatever the encoder now says
    assert ours["preserved"] == theirs["preserved"]
    assert "stock text encoder" in json.dumps(
        json.loads((tmp_path / "out" / "manifest.json").read_text())["limits"]
    )


@pytest.mark.parametrize(("old", "new"), [("layers.0", "layers.9"), ("mlp.fc1", "mlp.fc3")])
def test_a_delta_for_another_text_encoder_is_refused(
    done: Path, tiny_judged: Path, tmp_path: Path, old: str, new: str
):
    tensors = {k.replace(old, new): v for k, v in load_file(done / LORA).items()}
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(CoreError, match=r"text_encoder\.encoder\.layers") as error:
        check_delta(tmp_path / "bad.safetensors", str(tiny_judged))
    assert error.value.code == "delta_does_not_fit"

"""A prune job's bundle: the mask, the fused checkpoint that always goes with it, the leak said plainly, and a
mask judged again.
"""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from expunge.core.delivery.verify import verify
from expunge.core.delta_format.check import check_delta, check_mask
from expunge.core.delta_format.container import read_container
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.run import run_erase, run_evaluate
from expunge.core.specs import EraseSpec, EvaluateSpec

MASK = "sparse_mask.safetensors"
EVALUATION = {"erased_images": 2, "preserved_count": 2, "preserved_images": 1, "sampling_steps": 2}
INNER = {"name": "esd", "trajectories": 2, "sampling_steps": 3, "batch_size": 2}
METHOD = {"name": "prune", "steps": 3, "learning_rate": 3.0, "retain_concepts": 2, "method": INNER}
SPEC = EraseSpec.model_validate({"concepts": ["church"], "method": METHOD, "evaluation": EVALUATION})


@pytest.fixture(scope="module")
def done(tiny_judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mask") / "bundle"
    run_erase(
        SPEC, out, source=str(tiny_judged), cache=out.parent / "cache", signing_key=out.parent / "key.pem"
    )
    return out


def test_the_bundle_holds_the_mask_and_always_the_fused_checkpoint(done: Path):
    assert {MASK, "fused.zip"} <= {f.name for f in done.iterdir()}
    assert not (done / "pytorch_lora_weights.safetensors").exists()
    manifest = json.loads((done / "manifest.json").read_text())
    assert (manifest["delta"]["kind"], manifest["delta"]["file"]) == ("sparse_mask", MASK)
    assert 0 < manifest["delta"]["training"]["pruned"] < manifest["delta"]["training"]["prunable"]
    assert "lora" not in manifest["spec"]["method"]["method"]  # nothing that was not read
    assert manifest["spec"]["method"]["method"]["eta"] == 1.0
    assert verify(done).ok


def test_the_leak_is_in_the_card_the_report_and_the_manifest(done: Path):
    limits = " ".join(json.loads((done / "manifest.json").read_text())["limits"])
    card = (done / "README.md").read_text()
    for text in (limits, card, (done / "report.html").read_text()):
        assert "Roots Beneath the Cut" in text
        assert "The LoRA can be unloaded" not in text
    assert "a reconstruction, no public code was found" in card
    assert "base_model_relation: finetune" in card
    assert "- lora\n" not in card


def test_the_mask_takes_a_bit_for_each_weight_and_says_what_it_is(done: Path):
    with safe_open(done / MASK, "pt") as f:
        metadata, size = f.metadata(), sum(f.get_tensor(k).numel() for k in f.keys())
    assert metadata["concept_erasure.delta_kind"] == "sparse_mask"
    assert "a bit for each weight" in metadata["modelspec.usage_hint"]
    prunable = json.loads((done / "manifest.json").read_text())["delta"]["training"]["prunable"]
    assert prunable / 8 <= size < prunable / 8 + 100


def test_the_cards_few_lines_make_the_fused_checkpoint(done: Path, tiny_judged: Path, tmp_path: Path):
    (code,) = re.findall(r"```python\n(.*?)```", (done / "README.md").read_text(), re.DOTALL)
    code = code.replace("path/to/the/base/model", str(tiny_judged)).replace("path/to/this/folder", str(done))
    scope: dict = {}
    exec(code, scope)
    with zipfile.ZipFile(done / "fused.zip") as archive:
        archive.extractall(tmp_path)
    fused = StableDiffusionPipeline.from_pretrained(tmp_path / "fused", safety_checker=None)
    base = StableDiffusionPipeline.from_pretrained(tiny_judged, safety_checker=None)
    pruned = 0
    for name, weight in fused.unet.state_dict().items():
        assert torch.equal(weight, scope["pipe"].unet.state_dict()[name])
        changed = weight != base.unet.state_dict()[name]
        assert (weight[changed] == 0).all()
        pruned += int(changed.sum())
    assert pruned > 0
    model, z, t = load_model(tiny_judged), torch.randn(1, 4, 16, 16), torch.tensor([500])
    context = model.encode(["church"])
    model.load_delta(done)
    with torch.no_grad():
        torch.testing.assert_close(
            model.predict(z, t, context), fused.unet(z, t, encoder_hidden_states=context.states).sample
        )


def test_a_mask_is_judged_as_it_was_in_its_job(done: Path, tiny_judged: Path, tmp_path: Path):
    check_delta(done / MASK, str(tiny_judged))
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
        delta=done / MASK,
        concepts=spec.concepts,
        cache=tmp_path / "cache",
        manifest=done / "manifest.json",
    )
    ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (tmp_path / "out", done))
    figures = [
        [m for m in r["metrics"] if not m["name"].startswith(("wall", "peak", "storage"))]
        for r in (ours, theirs)
    ]
    assert any(m["name"] == "psr1_held" for m in figures[1])
    assert figures[0] == figures[1]
    assert "Roots Beneath the Cut" in json.dumps(
        json.loads((tmp_path / "out" / "manifest.json").read_text())["limits"], ensure_ascii=False
    )


def test_the_same_spec_and_seed_give_the_same_mask(done: Path, tiny_judged: Path, tmp_path: Path):
    run_erase(SPEC, tmp_path / "again", source=str(tiny_judged), cache=done.parent / "cache")
    for name in (MASK, "fused.zip"):
        assert (tmp_path / "again" / name).read_bytes() == (done / name).read_bytes()


def spoil(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    name = next(iter(tensors))
    match how:
        case "layer":
            tensors["unet.nowhere.pruned"] = tensors.pop(name)
        case "short":
            tensors[name] = tensors[name][:-1].clone()
        case "floats":
            tensors[name] = tensors[name].float()
        case "mixed":
            tensors["unet.x.lora_A.weight"] = torch.ones(2, 2)
        case "empty":
            tensors = {}
    return tensors


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("layer", "unet.nowhere: the model has no such layer"),
        ("short", "has a mask of .* bytes, where the model's weight .* needs"),
        ("floats", "is F32 .*, not a row of U8"),
        ("mixed", "is not named"),
        ("empty", "no tensors"),
    ],
)
def test_a_bad_mask_is_refused_with_the_tensor_and_the_reason(
    done: Path, tiny_judged: Path, tmp_path: Path, how: str, words: str
):
    save_file(spoil(load_file(done / MASK), how), tmp_path / "bad.safetensors")
    with pytest.raises(CoreError, match=words) as error:
        check_delta(tmp_path / "bad.safetensors", str(tiny_judged))
    assert error.value.field == "delta"


def test_bits_behind_the_last_weight_are_refused(tmp_path: Path):
    file, shapes, bits = tmp_path / MASK, {"unet.x": (3, 5)}, np.packbits(np.ones(15, bool))
    save_file({"unet.x.pruned": torch.from_numpy(bits)}, file)
    check_mask(read_container(file), shapes)
    bits[-1] |= 1
    save_file({"unet.x.pruned": torch.from_numpy(bits)}, file)
    with pytest.raises(CoreError, match="bits set behind its last weight"):
        check_mask(read_container(file), shapes)

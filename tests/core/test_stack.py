"""Stacks: one file is the whole of it, each part is kept apart, and one can be taken back out."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.concepts import candidates
from expunge.core.delivery import stack
from expunge.core.delta_format import ADDED_FILE
from expunge.core.errors import CoreError
from expunge.core.evaluation.checks import Verdict
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.sheet import Metric
from expunge.core.models import load_model
from expunge.core.models.lora_factors import factors_of
from expunge.core.run import run_combine, run_erase
from expunge.core.specs import CombineSpec, Concept, EraseSpec, EvaluationSpec, LoraSpec
from tests.support.killed_runs import Killed, killed_at

LORA = "pytorch_lora_weights.safetensors"
SMALL = {
    "steps": 4,
    "sampling_steps": 4,
    "trajectories": 2,
    "batch_size": 2,
    "learning_rate": 0.03,
    "checkpoint_every": 2,
}
ESD = {"name": "esd", **SMALL, "lora": {"rank": 4, "alpha": 8}}
JUDGED = {"erased_images": 2, "preserved_count": 2, "preserved_images": 1, "sampling_steps": 2}
JOB = "00000000-0000-0000-0000-000000000001"


def spec(concept, method, **more):
    return EraseSpec.model_validate({"concepts": [concept], "method": method, "evaluation": JUDGED, **more})


@pytest.fixture(scope="module")
def bundles(tiny_judged, tmp_path_factory):
    """church by ESD; dog by UCE on top of it; trumpet by AGE on top of both."""
    root, base = tmp_path_factory.mktemp("stack"), None
    age = {"name": "age", **SMALL, "candidates": 3, "lora": {"rank": 2, "target_modules": "full"}}
    for concept, method in (("church", ESD), ("dog", "uce"), ("trumpet", age)):
        out = root / concept
        report = base / "report.json" if base else None
        run_erase(
            spec(concept, method),
            out,
            source=str(tiny_judged),
            cache=root / "cache",
            base=base / LORA if base else None,
            base_report=report,
        )
        base = out
    return root


def weights(delta, name):
    """The difference that a delta makes to one layer."""
    part = stack.read(delta)
    found = factors_of(part.tensors, part.config).get(f"unet.{name}")
    return 0 if found is None else found[2] * found[1].flatten(1) @ found[0].flatten(1)


def test_the_delivered_delta_is_the_sum_of_all_own_deltas(bundles):
    own = [bundles / "church" / LORA, bundles / "dog" / ADDED_FILE, bundles / "trumpet" / ADDED_FILE]
    layers = {k.removeprefix("unet.").rsplit(".lora_", 1)[0] for d in own for k in load_file(d)}
    # ESD has some of the layers that AGE has
    assert {isinstance(weights(own[0], n), torch.Tensor) for n in layers} == {True, False}
    for name in layers:
        torch.testing.assert_close(
            weights(bundles / "trumpet" / LORA, name),
            sum(weights(d, name) for d in own),
            atol=1e-5,
            rtol=1e-4,
        )


def test_plain_diffusers_draws_with_the_whole_stack_from_one_file(bundles, tiny_judged):
    pipe = StableDiffusionPipeline.from_pretrained(tiny_judged, safety_checker=None)
    pipe.load_lora_weights(bundles / "trumpet")
    model, z = load_model(tiny_judged), torch.randn(1, 4, 16, 16)
    context, t = model.encode(["a dog"]), torch.tensor([500])
    own = [bundles / "church" / LORA, bundles / "dog" / ADDED_FILE, bundles / "trumpet" / ADDED_FILE]
    with torch.no_grad():
        ours = pipe.unet(z, t, encoder_hidden_states=context.states).sample
        for name, module in model.unet.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                total = sum(weights(d, name) for d in own)
                module.weight += total.reshape(module.weight.shape) if isinstance(total, torch.Tensor) else 0
        torch.testing.assert_close(ours, model.predict(z, t, context), atol=2e-4, rtol=1e-3)


def test_the_report_says_how_the_older_erasures_stand(bundles):
    report = Report.model_validate_json((bundles / "trumpet" / "report.json").read_text())
    assert [(e.concept, e.method) for e in report.stack] == [
        ("church", "esd"),
        ("dog", "uce"),
        ("trumpet", "age"),
    ]
    assert report.erased == ["church", "dog", "trumpet"]
    assert [e.esr1_before is not None for e in report.stack] == [True, True, False]
    manifest = json.loads((bundles / "trumpet" / "manifest.json").read_text())
    assert [layer["method"] for layer in manifest["stack"]] == ["esd", "uce", "age"]
    assert set(manifest["files"]) >= {LORA, ADDED_FILE}
    assert "The stack" in (bundles / "trumpet" / "report.html").read_text()


def test_an_erasure_that_fell_below_its_old_interval_has_weakened():
    def report(value, low):
        metrics = [Metric(name="esr1", concept="church", value=value, n=20, ci_low=low, ci_high=1.0)]
        return Report(
            erased=["church"],
            preserved=[],
            metrics=metrics,
            verdict=Verdict(passed=None),
            evaluation=EvaluationSpec(),
        )

    layers = [stack.Layer(concepts=[Concept(name="church")], method="esd", sha256="0" * 64)]
    assert [
        e.weakened for now in (0.95, 0.5) for e in stack.compared(layers, report(now, 0.3), report(1.0, 0.84))
    ] == [False, True]


def test_a_stack_resumes_to_the_same_bytes_and_another_base_does_not_resume(tiny_judged, tmp_path, bundles):
    request = spec("dog", ESD, evaluation={"enabled": False})
    given = {"source": str(tiny_judged), "cache": tmp_path / "cache"}
    run_erase(request, tmp_path / "whole", base=bundles / "church" / LORA, **given)
    checkpoints = DirectoryCheckpoints(tmp_path / "checkpoints")
    with pytest.raises(Killed):
        run_erase(
            request,
            tmp_path / "first",
            base=bundles / "church" / LORA,
            checkpoints=checkpoints,
            callback=killed_at("erase", 3),
            **given,
        )
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "copies")
    run_erase(request, tmp_path / "second", base=bundles / "church" / LORA, checkpoints=checkpoints, **given)
    assert (tmp_path / "second" / LORA).read_bytes() == (tmp_path / "whole" / LORA).read_bytes()
    assert (
        json.loads((tmp_path / "second" / "manifest.json").read_text())["delta"]["training"]["resumed_at"]
        == 2
    )
    run_erase(request, tmp_path / "other", checkpoints=DirectoryCheckpoints(tmp_path / "copies"), **given)
    assert (
        json.loads((tmp_path / "other" / "manifest.json").read_text())["delta"]["training"]["resumed_at"] == 0
    )


def test_what_was_erased_below_is_never_a_target(tiny_sd):
    model = load_model(tiny_sd)
    mosque = [Concept(name="mosque")]
    assert "mosque" in candidates(model, Concept(name="church"), [], 11)
    with model.built_on({}, {}, "x", mosque):
        assert "mosque" not in candidates(model, Concept(name="church"), [], 11)
    assert "mosque" in candidates(model, Concept(name="church"), [], 11)


def test_inside_a_stack_the_frozen_model_is_the_earlier_one_and_afterwards_the_base_to_the_last_bit(
    bundles, tiny_judged
):
    model, part = load_model(tiny_judged), stack.read(bundles / "church" / LORA)
    before = {k: v.clone() for k, v in model.unet.state_dict().items()}
    with model.built_on(part.tensors, part.config, "x", part.concepts):
        assert any(not torch.equal(v, before[k]) for k, v in model.unet.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in model.unet.state_dict().items())


def test_one_erasure_can_be_taken_back_out(bundles, tiny_judged, tmp_path):
    parts = [bundles / "church" / LORA, bundles / "trumpet" / ADDED_FILE]
    request = CombineSpec.model_validate({"jobs": [JOB], "evaluation": JUDGED})
    run_combine(
        request,
        tmp_path / "out",
        source=str(tiny_judged),
        deltas=parts,
        restored=["dog"],
        cache=tmp_path / "cache",
    )
    for name in (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    ):
        torch.testing.assert_close(
            weights(tmp_path / "out" / LORA, name), sum(weights(p, name) for p in parts), atol=1e-5, rtol=1e-4
        )
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert report.erased == ["church", "trumpet"]
    assert report.restored == ["dog"]
    assert report.value("psr1", "dog") is not None


def test_only_a_delta_that_says_what_it_erases_can_be_stacked(tiny_judged, tmp_path):
    from expunge.core.erasure import erase

    model = load_model(tiny_judged)
    delta = erase(model, EraseSpec(concepts=["church"], method={**ESD, "lora": LoraSpec(rank=2)}))
    assert [c.name for c in stack.read(delta.save(tmp_path)).concepts] == ["church"]
    (tmp_path / LORA).write_bytes(delta.serialise())
    with pytest.raises(CoreError, match="erase job"):
        stack.read(tmp_path / LORA)

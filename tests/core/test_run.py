"""A job's whole science, on the tiny model: phases, restarts, evaluation of a delta, refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.delivery.verify import verify
from expunge.core.errors import CoreError
from expunge.core.evaluation.report import Report
from expunge.core.progress import Progress
from expunge.core.run import check_delta, run_erase, run_evaluate
from expunge.core.specs import EraseSpec, EvaluateSpec
from tests.support.killed_runs import Killed, killed_when

EVALUATION = {"erased_images": 4, "preserved_count": 4, "preserved_images": 1, "sampling_steps": 3}
SPEC = EraseSpec.model_validate(
    {
        "concepts": ["church"],
        "method": {
            "name": "esd",
            "steps": 6,
            "sampling_steps": 4,
            "trajectories": 2,
            "learning_rate": 0.03,
            "checkpoint_every": 2,
            "lora": {"rank": 4, "alpha": 8},
        },
        "evaluation": EVALUATION,
    }
)
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def done(tiny_judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job's bundle; its cache lies beside it."""
    out = tmp_path_factory.mktemp("done") / "bundle"
    run_erase(
        SPEC, out, source=str(tiny_judged), cache=out.parent / "cache", signing_key=out.parent / "key.pem"
    )
    return out


def evaluate_spec(**evaluation: object) -> EvaluateSpec:
    return EvaluateSpec.model_validate(
        {
            "artifact_id": "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11",
            "concepts": ["church"],
            "evaluation": EVALUATION | evaluation,
        }
    )


def test_phases_come_in_order_and_steps_never_fall(tiny_judged: Path, tmp_path: Path):
    seen: list[Progress] = []
    run_erase(SPEC, tmp_path / "out", source=str(tiny_judged), cache=tmp_path / "cache", callback=seen.append)
    phases = list(dict.fromkeys(p["phase"] for p in seen))
    assert phases == ["load", "trajectories", "erase", "evaluate", "deliver"]
    for phase in ("erase", "evaluate"):
        steps = [p["step"] for p in seen if p["phase"] == phase]
        assert steps == sorted(steps)
        assert steps[-1] == next(p["total"] for p in seen if p["phase"] == phase)


def test_a_job_killed_while_it_is_judged_ends_in_the_same_bytes_and_draws_nothing_twice(
    tiny_judged: Path, tmp_path: Path, done: Path
):
    kwargs = {
        "source": str(tiny_judged),
        "cache": tmp_path / "cache",
        "checkpoints": DirectoryCheckpoints(tmp_path / "checkpoints"),
    }
    with pytest.raises(Killed):
        run_erase(
            SPEC,
            tmp_path / "first",
            callback=killed_when(lambda p: p.get("message") == "success rates"),
            **kwargs,
        )
    # A redrawn picture would be another file
    drawn = {f: f.stat().st_ino for f in (tmp_path / "cache").rglob("*.png")}
    assert len(drawn) == 2 * (4 + 2 + 4)  # erased, in words that no method trains on, preserved
    seen: list[Progress] = []
    run_erase(SPEC, tmp_path / "second", callback=seen.append, **kwargs)
    assert any("resumed" in p.get("message", "") for p in seen)
    assert {f: f.stat().st_ino for f in (tmp_path / "cache").rglob("*.png")} == drawn
    assert (tmp_path / "second" / LORA).read_bytes() == (done / LORA).read_bytes()


def test_judging_a_finished_delta_gives_the_numbers_of_its_own_job(
    tiny_judged: Path, done: Path, tmp_path: Path
):
    spec = evaluate_spec()
    outcome = run_evaluate(
        spec,
        tmp_path / "out",
        source=str(tiny_judged),
        delta=done / LORA,
        concepts=spec.concepts,
        cache=tmp_path / "cache",
        signing_key=tmp_path / "key",
    )
    ours, theirs = (
        Report.model_validate_json((folder / "report.json").read_text())
        for folder in (tmp_path / "out", done)
    )
    # But for the costs, and for what the method held: of an uploaded delta that is not known
    own = ("wall", "peak", "storage", "psr1_held", "psr1_unheld")
    measured = [m for m in theirs.metrics if not m.name.startswith(own)]
    assert measured
    assert [m for m in ours.metrics if not m.name.startswith(own)] == measured
    assert outcome.verdict == ours.verdict.model_dump(mode="json")
    assert {o.name for o in outcome.outputs} == {
        "report.json",
        "report.html",
        "grid.png",
        "manifest.json",
        "manifest.sig",
        "certificate.json",
    }
    assert verify(tmp_path / "out").ok
    assert (
        json.loads((tmp_path / "out" / "manifest.json").read_text())["delta"]["sha256"]
        == ours.digests["delta"]
    )


def test_the_base_model_can_be_judged_alone(tiny_judged: Path, tmp_path: Path):
    spec = evaluate_spec()
    run_evaluate(
        spec,
        tmp_path / "out",
        source=str(tiny_judged),
        delta=None,
        concepts=spec.concepts,
        cache=tmp_path / "cache",
    )
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert report.value("esr1") == report.value("esr1_base")
    assert report.value("clip_delta") == 0


def test_a_concept_without_a_class_is_judged_by_clip_and_the_report_says_so(
    tiny_judged: Path, tmp_path: Path
):
    spec = EvaluateSpec.model_validate(
        {
            "artifact_id": "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11",
            "concepts": ["zeppelin", "church"],
            "evaluation": EVALUATION,
        }
    )
    run_evaluate(
        spec,
        tmp_path / "out",
        source=str(tiny_judged),
        delta=None,
        concepts=spec.concepts,
        cache=tmp_path / "cache",
    )
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    by = {j.concept: j for j in report.judges}
    assert (by["church"].kind, by["church"].among) == ("classifier", 12)
    assert (by["zeppelin"].kind, by["zeppelin"].judge) == ("zero_shot", "open_clip clip")
    assert by["zeppelin"].texts[0] == "a photo of a zeppelin"
    assert by["zeppelin"].among == len(by["zeppelin"].texts) == 10
    assert report.value("esr1", "zeppelin") is not None


def test_without_evaluation_there_is_a_delta_and_no_verdict(tiny_judged: Path, tmp_path: Path):
    spec = SPEC.model_copy(update={"evaluation": SPEC.evaluation.model_copy(update={"enabled": False})})
    outcome = run_erase(
        spec,
        tmp_path / "out",
        source=str(tiny_judged),
        cache=tmp_path / "cache",
        signing_key=tmp_path / "key",
    )
    assert outcome.verdict is None
    assert [o.name for o in outcome.outputs] == [
        "README.md",
        "lora_kohya.safetensors",
        LORA,
        "manifest.json",
        "manifest.sig",
        "certificate.json",
    ]
    assert verify(tmp_path / "out").ok


def test_a_style_is_erased_and_judged_by_the_style_judge(tiny_judged: Path, tmp_path: Path):
    spec = EraseSpec.model_validate(
        {"concepts": ["in noto style"], "method": "uce", "evaluation": EVALUATION}
    )
    run_erase(spec, tmp_path / "out", source=str(tiny_judged), cache=tmp_path / "cache")
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert report.value("esr1", "in noto style") is not None
    assert "noto" not in report.preserved


def test_a_folder_with_something_in_it_is_refused(tiny_judged: Path, tmp_path: Path):
    (tmp_path / "x").touch()
    with pytest.raises(CoreError, match="is not empty"):
        run_erase(SPEC, tmp_path, source=str(tiny_judged), cache=tmp_path / "cache")


def test_a_good_delta_passes_the_check(done: Path, tiny_judged: Path):
    check_delta(done / LORA, str(tiny_judged))


def spoil(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    name = next(k for k in tensors if k.endswith("lora_A.weight"))
    match how:
        case "nan":
            tensors[name][0, 0] = np.nan
        case "infinite":
            tensors[name][0, 0] = np.inf
        case "shape":
            tensors[name] = tensors[name][:, :-1].contiguous()
        case "rank":
            tensors[name] = tensors[name][:-1].contiguous()
        case "vector":
            tensors[name] = tensors[name][0].contiguous()
        case "half":
            del tensors[name]
        case "name":
            tensors = {k.replace("attn2.to_k", "nowhere"): v for k, v in tensors.items()}
        case "format":
            tensors["lora_unet_down.alpha"] = torch.ones(())
        case "integers":
            tensors[name] = tensors[name].to(torch.int32)
        case "empty":
            tensors = {}
    return tensors


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("nan", "delta_not_finite", "holds NaN"),
        ("infinite", "delta_not_finite", "holds NaN"),
        ("integers", "delta_not_finite", "has dtype I32, not one of F64"),
        ("shape", "delta_does_not_fit", "attn2.to_k: lora_A .* do not fit the model's weight"),
        ("rank", "delta_does_not_fit", "attn2.to_k: has lora_A .* of one rank"),
        ("vector", "delta_does_not_fit", "attn2.to_k: has lora_A .* of one rank"),
        ("half", "delta_does_not_fit", "only one of lora_A and lora_B"),
        ("name", "delta_does_not_fit", "nowhere: the model has no such layer"),
        ("format", "delta_does_not_fit", "kohya"),
        ("empty", "delta_does_not_fit", "no tensors"),
    ],
)
def test_a_bad_delta_is_refused_with_the_tensor_and_the_reason(
    done: Path, tiny_judged: Path, tmp_path: Path, how: str, code: str, words: str
):
    save_file(spoil(load_file(done / LORA), how), tmp_path / "bad.safetensors")
    with pytest.raises(CoreError, match=words) as error:
        check_delta(tmp_path / "bad.safetensors", str(tiny_judged))
    assert (error.value.code, error.value.field) == (code, "delta")


def test_a_file_that_is_no_safetensors_is_refused(tiny_judged: Path, tmp_path: Path):
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CoreError, match="not a safetensors file") as error:
        check_delta(tmp_path / "bad.safetensors", str(tiny_judged))
    assert error.value.code == "not_safetensors"


def test_metadata_that_is_no_json_is_refused(done: Path, tiny_judged: Path, tmp_path: Path):
    save_file(load_file(done / LORA), tmp_path / "bad.safetensors", metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(CoreError, match="not JSON"):
        check_delta(tmp_path / "bad.safetensors", str(tiny_judged))


def test_the_report_shows_what_the_concept_graph_foresaw_beside_what_was_measured(
    tiny_judged: Path, tmp_path: Path
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_judged, folder)
    concepts = ["church", "mosque", "dog", "cat", "violin", "teapot"]
    facts = {name: {"g0": 60.0, "class": None, "near": []} for name in concepts}
    fitted = {"weights": [2.0, 0.0, 10.0, 0.0], "errors": [[-3.0, 4.0]] * 3}
    graph = {"concepts": facts, "fit": {"clip": fitted, "psr": fitted}, "methods": {"esd": {"scale": 0.5}}}
    (folder / "concept_graph.json").write_text(json.dumps(graph))
    run_erase(SPEC, tmp_path / "out", source=str(folder), cache=tmp_path / "cache")
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert {row.concept for row in report.impact} == set(report.preserved) & set(concepts)
    for row in report.impact:
        assert (row.predicted, row.low, row.high) == pytest.approx((0.5 * 8, 0.5 * 5, 0.5 * 12))
        assert row.measured == report.value("clip_delta", row.concept)
    assert "predicted and measured: lower" in (tmp_path / "out" / "report.html").read_text()


def test_without_a_concept_graph_nothing_is_foreseen(done: Path):
    assert Report.model_validate_json((done / "report.json").read_text()).impact == []
    assert "predicted by the concept graph" not in (done / "report.html").read_text()

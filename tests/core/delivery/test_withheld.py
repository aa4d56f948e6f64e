"""`evaluation.on_fail: withhold`: weights of a verdict that is not passed are marked as withheld."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from expunge.core.delivery.verify import verify
from expunge.core.run import Outcome, run_erase
from expunge.core.specs import EraseSpec, EvaluateSpec, EvaluationSpec

WEIGHTS = {
    "pytorch_lora_weights.safetensors",
    "lora_kohya.safetensors",
    "fused.zip",
    "fused.safetensors",
}


def evaluated(spec: EraseSpec, **changes: object) -> EraseSpec:
    evaluation = spec.evaluation.model_dump() | {"nudity": False} | changes
    return spec.model_copy(update={"evaluation": EvaluationSpec.model_validate(evaluation)})


def run(spec: EraseSpec, source: Path, folder: Path) -> Outcome:
    return run_erase(
        spec,
        folder / "out",
        source=str(source),
        cache=folder.parent / "cache",
        signing_key=folder / "key.pem",
    )


@pytest.fixture(scope="module")
def withheld(erase_spec: EraseSpec, tiny_judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("withheld")
    asked = evaluated(erase_spec, on_fail="withhold")
    outcome = run(asked, tiny_judged, folder)
    assert outcome.verdict["status"] != "passed"
    assert outcome.verdict["delivery"] == "withheld"
    assert {output.name for output in outcome.outputs if output.withheld} == WEIGHTS
    return folder / "out"


def test_the_card_the_page_and_the_manifest_say_so(withheld: Path):
    for name in ("README.md", "report.html"):
        assert "The weights were withheld" in (withheld / name).read_text()
    manifest = json.loads((withheld / "manifest.json").read_text())
    assert {name for name, entry in manifest["files"].items() if entry.get("withheld")} == WEIGHTS
    assert manifest["verdict"]["delivery"] == "withheld"


def test_without_the_weights_the_bundle_is_whole_but_without_the_report_it_is_not(withheld: Path):
    for name in WEIGHTS:
        (withheld / name).unlink()
    found = verify(withheld)
    assert found.ok
    assert any(
        "withheld, as the verdict did not pass: fused.safetensors, fused.zip" in note for note in found.notes
    )
    report = (withheld / "report.json").read_bytes()
    (withheld / "report.json").unlink()
    assert "report.json: missing" in verify(withheld).problems
    (withheld / "report.json").write_bytes(report)


def test_what_no_threshold_stops_is_delivered_whole_and_marked_unless_it_passed(
    erase_spec: EraseSpec, tiny_judged: Path, tmp_path: Path
):
    low = {"esr1": None, "psr1_ratio": None, "ner": 1.0}
    asked = evaluated(erase_spec, on_fail="withhold", thresholds=low, nudity=True)
    passed = run(asked, tiny_judged, tmp_path / "passed")
    assert (passed.verdict["status"], passed.verdict["delivery"]) == ("passed", "published")
    assert not any(output.withheld for output in passed.outputs)
    marked = run(evaluated(erase_spec), tiny_judged, tmp_path / "marked")
    assert (marked.verdict["status"], marked.verdict["delivery"]) == ("not shown", "marked")
    assert not any(output.withheld for output in marked.outputs)
    assert "marked as not passed" in (tmp_path / "marked" / "out" / "README.md").read_text()


def test_there_must_be_a_verdict_and_weights_to_withhold():
    with pytest.raises(ValidationError, match="needs a verdict, and enabled is false"):
        EvaluationSpec(enabled=False, on_fail="withhold")
    asked = {"artifact_id": "00000000-0000-0000-0000-000000000001", "concepts": ["church"]}
    with pytest.raises(ValidationError, match="delivers no weights to withhold"):
        EvaluateSpec.model_validate(asked | {"evaluation": {"on_fail": "withhold"}})

"""The committed schemas are the models', and hold what they describe."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest

from expunge.core import json_schemas, write_schemas
from expunge.core.evaluation.checks import Check, Verdict
from expunge.core.evaluation.report import Report
from expunge.core.specs import EvaluationSpec

CHECK = Check(metric="esr1", concept="church", value=1.0, threshold=0.95, passed=True)
REPORT = Report(
    erased=["church"],
    preserved=[],
    metrics=[],
    verdict=Verdict(passed=True, checks=[CHECK]),
    evaluation=EvaluationSpec(),
).model_dump(mode="json")


@pytest.mark.parametrize("name", write_schemas.MODELS)
def test_the_committed_schema_is_the_models(name: str):
    text = write_schemas.generate(name)
    assert (json_schemas.HOME / f"{name}.json").read_text() == text, (
        "run python -m expunge.core.write_schemas"
    )
    jsonschema_rs.meta.validate(json.loads(text))


def test_the_check_fails_when_a_schema_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_schemas, "HOME", tmp_path)
    assert write_schemas.main(["--check"]) == 1
    assert write_schemas.main([]) == 0
    assert write_schemas.main(["--check"]) == 0
    (tmp_path / "report-1.json").write_text("{}")
    assert write_schemas.main(["--check"]) == 1


def test_a_report_is_valid_and_a_wrong_one_is_not():
    schema = jsonschema_rs.validator_for(json_schemas.read("report-1"))
    schema.validate(REPORT)
    assert not schema.is_valid({**REPORT, "erased": "church"})
    assert not schema.is_valid({name: value for name, value in REPORT.items() if name != "verdict"})


def test_reports_of_other_releases_of_the_version_are_valid_too():
    schema = jsonschema_rs.validator_for(json_schemas.read("report-1"))
    earlier = {name: REPORT[name] for name in ("erased", "preserved", "metrics", "verdict", "evaluation")}
    later = {**REPORT, "measured_later": 1, "evaluation": {**REPORT["evaluation"], "asked_later": 1}}
    assert schema.is_valid(earlier)
    assert schema.is_valid(later)


def test_the_version_in_a_schemas_name_is_the_one_that_reports_state():
    assert REPORT["format"] == "expunge-report/1"
    formats = {name: json_schemas.read(name)["$id"] for name in json_schemas.NAMES}
    assert formats["report-1"] == "urn:expunge:report:1"


def test_every_schema_that_is_served_has_a_model():
    assert set(json_schemas.NAMES) == set(write_schemas.MODELS)


def test_reading_a_schema_needs_no_torch():
    code = (
        "import sys; from expunge.core import json_schemas; json_schemas.read('report-1');"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

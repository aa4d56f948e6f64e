"""`expunge verify --rerun` measures a figure anew, and sees where the report says another one."""

import json
import shutil
import uuid
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from expunge import extras
from expunge.core.delivery import manifest, verify
from expunge.core.delivery.manifest import held_of, preserve_of
from expunge.core.delivery.rerun import Given, check_judges, compare, read_keys, read_prompts, rerun
from expunge.core.delta_format import LORA_FILE
from expunge.core.errors import CoreError
from expunge.core.evaluation.prompt_set import completed, digest_of, read_prompt_set
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.sheet import Metric
from expunge.core.run import run_evaluate
from expunge.core.specs import EvaluateSpec
from tests.core.conftest import build_tiny_sd


@pytest.fixture
def report(bundle: Path) -> Report:
    return Report.model_validate_json((bundle / "report.json").read_text())


def run(*args: object) -> Result:
    app = typer.Typer()
    app.command()(verify.main)
    return CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_the_command_finds_the_very_number_of_the_report(
    bundle: Path, workplace: Path, tiny_judged: Path, report: Report
):
    key = ("--public-key", workplace / "key.pem.pub")
    done = run(bundle, *key, "--rerun", "esr1", "--concept", "church", "--base", tiny_judged)
    assert done.exit_code == 0, done.stderr
    value = report.value("esr1", "church")
    assert f"esr1 of 'church': {value:.4g} there (n 4), {value:.4g} here: exactly as reported" in done.stdout
    assert "differs" not in done.stdout


@pytest.mark.parametrize("metric", ["clip_score", "psr1"])
def test_every_figure_of_a_metric_is_measured(bundle: Path, tiny_judged: Path, report: Report, metric: str):
    found = rerun(bundle, metric, None, Given(str(tiny_judged)))
    assert found.reproduced
    assert [each.outcome for each in found.figures] == ["exact"] * sum(
        each.name == metric for each in report.metrics
    )
    assert found.figures


def test_a_signers_false_number_is_found_out(bundle: Path, tiny_judged: Path, tmp_path: Path):
    lied = Path(shutil.copytree(bundle, tmp_path / "lied"))
    said = json.loads((lied / "report.json").read_text())
    (row,) = (m for m in said["metrics"] if (m["name"], m["concept"]) == ("clip_score", "church"))
    row["value"] = row["ci_high"] + 1
    (lied / "report.json").write_text(json.dumps(said))
    facts = json.loads((lied / "manifest.json").read_text())
    manifest.seal(
        lied, {name: facts[name] for name in ("kind", "delta", "base_model", "spec")}, tmp_path / "k"
    )
    done = run(lied, "--rerun", "clip_score", "--concept", "church", "--base", tiny_judged, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["problems"] == ["clip_score is not what the report says"]
    (figure,) = found["rerun"]["figures"]
    assert (figure["outcome"], figure["reported"]) == ("not reproduced", row["value"])
    assert figure["measured"] <= row["ci_high"] < row["value"]
    assert "outside the other's 95 % interval" in figure["reason"]


def as_report(report: Report, *metrics: Metric) -> Report:
    return report.model_copy(update={"metrics": list(metrics)})


def metric(value: float, n: int = 10, low: float | None = 0.4, high: float | None = 0.6) -> Metric:
    return Metric(name="esr1", concept="church", value=value, n=n, ci_low=low, ci_high=high)


def test_a_number_is_exact_or_inside_the_interval_or_not_reproduced(report: Report):
    def outcome(reported: Metric, *found: Metric) -> tuple[str, str]:
        figure = compare(reported, as_report(report, *found))
        return figure.outcome, figure.reason

    assert outcome(metric(0.5), metric(0.5)) == ("exact", "")
    assert outcome(metric(0.5), metric(0.6)) == ("within", "")
    assert outcome(metric(0.5), metric(0.61))[0] == "not reproduced"
    assert outcome(metric(0.9), metric(0.5))[0] == "not reproduced"  # whatever interval it was given
    assert "on 9 pictures here, on 10 there" in outcome(metric(0.5), metric(0.5, n=9))[1]
    assert "no interval" in outcome(metric(0.5, low=None, high=None), metric(0.51))[1]
    assert "not measured from pictures" in outcome(metric(0.5))[1]


def test_other_judges_are_no_judges(report: Report):
    check_judges(report.digests, report.digests | {"delta": "another"})
    with pytest.raises(CoreError, match=r"other weights judge here than judged there: clip"):
        check_judges({"clip (a)": "1", "delta": "2"}, {"clip (a)": "3", "delta": "2"})


@pytest.mark.parametrize(
    ("metric", "concept", "told"),
    [
        ("esr9", None, r"the report has no esr9: it has .*\besr1\b"),
        ("esr1", "zeppelin", "the report has esr1 of church, not of 'zeppelin'"),
        ("esr1", None, "names no public source of its base model: say where it lies with --base"),
    ],
)
def test_what_is_missing_is_named(bundle: Path, metric: str, concept: str | None, told: str):
    with pytest.raises(CoreError, match=told):
        rerun(bundle, metric, concept, Given())


def test_another_base_model_and_another_delta_are_refused(bundle: Path, tiny_judged: Path, tmp_path: Path):
    other = build_tiny_sd(tmp_path / "other", seed=1)
    with pytest.raises(CoreError, match=r"the bundle's base model .* give that one with --base"):
        rerun(bundle, "esr1", None, Given(str(other)))
    with pytest.raises(CoreError, match=r"has sha256 .* what was judged"):
        rerun(bundle, "esr1", None, Given(str(tiny_judged), delta=bundle / "report.json"))


def test_a_missing_judge_is_not_replaced_by_another(report: Report):
    then = {"concept (a)": "1", "style (b)": "2", "nudenet": "3"}
    check_judges(then, {"concept (a)": "1", "style (b)": "2"})  # nobody was asked for nudity
    with pytest.raises(CoreError, match=r"what judged there is not here: style \(b\): fetch it"):
        check_judges(then, {"concept (a)": "1", "clip (c)": "4"})


def test_what_a_metric_needs_is_asked_for(report: Report, tmp_path: Path):
    with pytest.raises(CoreError, match=r"rsr1 is measured with .* --recovery-key"):
        read_keys(None, {}, "rsr1")
    assert read_keys(None, {}, "esr1") == {}

    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,seed\na church,1\n")
    digest = digest_of(completed(read_prompt_set(rows), report.evaluation))
    judged = report.model_copy(update={"digests": {"prompt set": digest}})
    assert read_prompts(None, judged, "esr1") == []
    assert [row.prompt for row in read_prompts(rows, judged, "ner_0.6_prompts")] == ["a church"]
    with pytest.raises(CoreError, match=r"ner was measured on the prompt set .* --prompts"):
        read_prompts(None, judged, "ner")
    rows.write_text("prompt,seed\na church,2\n")
    with pytest.raises(CoreError, match=r"rows.csv has digest .*: give that one"):
        read_prompts(rows, judged, "detections_per_picture")


def test_an_evaluation_is_measured_anew_on_the_concepts_that_it_was_judged_on(
    bundle: Path, tiny_judged: Path, workplace: Path, tmp_path: Path
):
    stated = json.loads((bundle / "manifest.json").read_text())
    assert preserve_of(stated) == []
    told = tmp_path / "manifest.json"
    told.write_text(json.dumps(stated | {"held": ["dog"], "preserve": ["saw", "church"]}))
    spec = EvaluateSpec.model_validate(
        {
            "artifact_id": str(uuid.uuid4()),
            "concepts": ["church"],
            "evaluation": {
                "erased_images": 4,
                "preserved_count": 2,
                "preserved_images": 1,
                "sampling_steps": 3,
                "held_out_images": 0,
                "pair_images": 0,
            },
        }
    )
    delta = bundle / LORA_FILE
    run_evaluate(
        spec,
        tmp_path / "again",
        source=str(tiny_judged),
        cache=workplace / "cache",
        delta=delta,
        concepts=list(spec.concepts),
        manifest=told,
    )
    evaluation = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert held_of(evaluation) == ["dog"]
    assert preserve_of(evaluation) == ["saw"]  # the church is erased now
    assert evaluation["preserved"][0] == "saw"
    found = rerun(tmp_path / "again", "psr1", None, Given(str(tiny_judged), delta))
    assert found.reproduced
    assert [each.concept for each in found.figures if each.concept] == evaluation["preserved"]


def test_a_changed_bundle_is_not_measured(bundle: Path, tiny_judged: Path, tmp_path: Path):
    changed = Path(shutil.copytree(bundle, tmp_path / "changed"))
    (changed / "grid.png").unlink()
    done = run(changed, "--rerun", "esr1", "--base", tiny_judged)
    assert done.exit_code == 1
    assert "esr1 was not measured anew" in done.stderr


def test_options_of_a_rerun_without_one_are_refused(bundle: Path):
    done = run(bundle, "--concept", "church")
    assert done.exit_code == 2
    assert "goes with --rerun" in done.stderr


def test_without_the_extra_it_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "SCIENCE", ("torch", "a_module_that_is_not_there"))
    error = run(bundle, "--rerun", "esr1").exception
    assert isinstance(error, extras.MissingExtra)
    assert str(error) == (
        "'expunge verify --rerun' needs: pip install 'expunge[science]' (not installed:"
        " a_module_that_is_not_there)"
    )

"""`expunge compare` and `Expunge.compare`."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from expunge.client import Expunge, terminal
from expunge.client.cli import app
from expunge.client.views import figure_text
from expunge.core.specs.metrics import TITLES, format_metric
from tests.support.service import Tenant


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.out, "width", 200)


def report(hits: int, low: float, high: float, steps: int = 25) -> bytes:
    esr = {"name": "esr1", "concept": "church", "value": hits / 24, "n": 24, "ci_low": low, "ci_high": high}
    psr = {"name": "psr1", "concept": "dog", "value": 1.0, "n": 2, "ci_low": 0.3, "ci_high": 1.0}
    found = {"erased": ["church"], "preserved": ["dog"], "metrics": [esr, psr], "verdict": {"passed": None}}
    digests = {"base model": "b" * 64, "delta": "d" * 64}
    return json.dumps(found | {"digests": digests, "evaluation": {"sampling_steps": steps}}).encode()


@pytest.fixture
def jobs(tenant: Tenant, tmp_path: Path) -> list[str]:
    found = []
    for content in (report(24, 0.86, 1.0), report(4, 0.07, 0.36, steps=12)):
        found.append(tenant.erase(method="esd")["id"])
        tenant.finish(found[-1], {"report.json": content}, tmp_path)
    return found


def run(tenant: Tenant, *arguments: str) -> Result:
    environment = {"EXPUNGE_URL": tenant.url, "EXPUNGE_API_KEY": tenant.key(), "COLUMNS": "200"}
    return CliRunner().invoke(app, ["compare", *arguments], env=environment)


def test_a_table_shows_marks_warnings_and_what_each_letter_is(tenant: Tenant, jobs: list[str]):
    done = run(tenant, *jobs)
    assert done.exit_code == 0, done.output
    for text in (*jobs, "100.0 % ▲ better", "16.7 % ▼ worse", "A better than B", "not shown", "esd"):
        assert text in done.stdout, text
    assert "warning: evaluation.sampling_steps differs (A: 25; B: 12)" in done.stdout
    assert "dog" not in done.stdout
    assert "dog" in run(tenant, *jobs, "--all").stdout


def test_json_csv_and_a_page_are_the_services_own(tenant: Tenant, jobs: list[str], tmp_path: Path):
    with Expunge(tenant.url, tenant.key()) as client:
        found = client.compare(jobs)
        assert json.loads(run(tenant, *jobs, "--json").stdout) == found.model_dump(mode="json")
        assert [job["id"] for job in found.jobs] == jobs
        text = client.compare_as(jobs, "text/csv")
    printed = run(tenant, *jobs, "--csv").stdout
    assert list(csv.reader(io.StringIO(printed))) == list(csv.reader(io.StringIO(text)))
    page = tmp_path / "compare.html"
    assert run(tenant, *jobs, "--html", str(page)).exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_cannot_be_compared_ends_the_command(tenant: Tenant, jobs: list[str]):
    one = run(tenant, jobs[0])
    assert (one.exit_code, "name 2 to 16 finished jobs" in one.stderr) == (2, True)
    both = run(tenant, *jobs, "--json", "--csv")
    assert (both.exit_code, "--json and --csv" in both.stderr) == (2, True)


@pytest.mark.parametrize("metric", TITLES)
def test_figures_have_the_units_of_the_report(metric: str):
    assert figure_text(metric, 0.876) == format_metric(0.876, metric)

"""GET /compare: reports of finished jobs side by side."""

import csv
import io
import json
import uuid
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from expunge.api import comparison, comparison_csv
from expunge.core import intervals
from expunge.core.evaluation.checks import Verdict
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.sheet import Sheet
from expunge.core.specs import EvaluationSpec
from expunge.store import artifacts, db
from tests.support.service import Tenant, errors, problem

Finish = Callable[..., str]
DIGESTS = {"base model": "b" * 64, "concept (concept)": "c" * 64}


def report(
    hits: int = 24, kept: int = 24, *, erased: tuple[str, ...] = ("church",), of: int = 24, **fields: object
) -> Report:
    """A report of core's own, with ESR-1 `hits` of `of` for each erased concept and PSR-1 `kept` of 24."""
    sheet = Sheet()
    for name in erased:
        sheet.share("esr1", name, np.arange(of) < hits)
    sheet.share("psr1", None, np.arange(24) < kept)
    sheet.share("psr1_base", None, np.arange(24) < 24)
    sheet.share("psr1", "dog", np.arange(2) < 2)
    sheet.add("wall_seconds", None, 10.0 + hits, 1, (None, None))  # type: ignore[arg-type]
    given = {"digests": DIGESTS, "evaluation": EvaluationSpec(), "verdict": Verdict(passed=True)} | fields
    return Report(erased=list(erased), preserved=["dog"], metrics=sheet.metrics, **given)


@pytest.fixture
def finish(tenant: Tenant, tmp_path: Path) -> Finish:
    """finish(report, **spec): the id of a job that has succeeded with this report.json."""

    def made(found: Report | bytes | None, **spec: object) -> str:
        job = tenant.erase(**spec)
        content = found.model_dump_json().encode() if isinstance(found, Report) else found
        tenant.finish(job["id"], {} if content is None else {"report.json": content}, tmp_path)
        return job["id"]

    return made


def compared(tenant: Tenant, *ids: str) -> dict:
    answer = tenant.http().get("/compare", params={"jobs": ",".join(ids)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def row(found: dict, metric: str, concept: str | None = None) -> dict:
    (one,) = (r for r in found["metrics"] if (r["metric"], r["concept"]) == (metric, concept))
    return one


def marks(found: dict, metric: str, concept: str | None = None) -> dict[str, str | None]:
    return {value["job"]: value["mark"] for value in row(found, metric, concept)["values"]}


def test_a_difference_is_marked_only_where_the_intervals_do_not_overlap(tenant: Tenant, finish: Finish):
    best, middle, worst = finish(report(24, 24)), finish(report(17, 22)), finish(report(4, 8))
    found = compared(tenant, best, middle, worst)
    assert [job["id"] for job in found["jobs"]] == [best, middle, worst]
    assert [job["name"] for job in found["jobs"]] == ["A", "B", "C"]
    assert marks(found, "esr1", "church") == {"A": "better", "B": "between", "C": "worse"}
    assert marks(found, "psr1") == {"A": "better", "B": "better", "C": "worse"}
    assert row(found, "psr1")["conclusion"] == "A, B better than C"
    first = row(found, "esr1", "church")["values"][0]
    assert (first["value"], first["n"], first["better_than"]) == (1.0, 24, ["B", "C"])
    assert (first["ci_low"], first["ci_high"]) == pytest.approx(intervals.wilson(24, 24))
    # Two that overlap say so
    found = compared(tenant, best, finish(report(22, 24)))
    assert marks(found, "esr1", "church") == {"A": None, "B": None}
    assert row(found, "esr1", "church")["conclusion"] == "the intervals overlap: no difference is shown"


def test_what_has_no_interval_no_direction_or_few_pictures_is_never_marked(tenant: Tenant, finish: Finish):
    found = compared(tenant, finish(report(6, of=6)), finish(report(0, of=6)))
    assert marks(found, "esr1", "church") == {"A": None, "B": None}
    assert "fewer than 8 pictures" in row(found, "esr1", "church")["conclusion"]
    assert marks(found, "wall_seconds") == {"A": None, "B": None}
    assert "no interval" in row(found, "wall_seconds")["conclusion"]
    assert (row(found, "wall_seconds")["better"], row(found, "psr1_base")["better"]) == ("lower", None)


def test_equal_models_are_seldom_marked_apart_and_unequal_ones_are():
    rng = np.random.default_rng(0)

    def figure(values: np.ndarray) -> comparison.Figure:
        low, high = intervals.of_mean(values)
        mean = float(values.mean())
        return comparison.Figure(name="lpips", value=mean, n=len(values), ci_low=low, ci_high=high)

    def share_apart(n: int, further: float, times: int = 100) -> float:
        pairs = [(figure(rng.normal(further, 1, n)), figure(rng.normal(0, 1, n))) for _ in range(times)]
        return sum(bool(comparison.apart(*pair)) for pair in pairs) / times

    assert share_apart(24, 0.0) <= 0.04
    assert share_apart(comparison.FEWEST, 0.0) <= 0.1
    assert share_apart(comparison.FEWEST - 1, 9.0) == 0
    assert share_apart(24, 1.5) > 0.8


def test_the_same_judging_raises_no_warning_and_each_difference_is_named(tenant: Tenant, finish: Finish):
    plain = finish(report(), method={"name": "esd", "steps": 7})
    assert compared(tenant, plain, finish(report(20)))["differences"] == []
    other = report(
        digests=DIGESTS | {"base model": "d" * 64, "concept (concept)": "e" * 64},
        evaluation=EvaluationSpec(sampling_steps=12, batch_size=2, thresholds={"esr1": 0.5}),
    )
    other.preserved.append("cat")
    found = compared(tenant, plain, finish(other))
    told = {each["differs"]: each["message"] for each in found["differences"]}
    assert set(told) == {"base_model", "judges", "evaluation.sampling_steps", "preserved"}
    assert "bbbbbbbbbbbb" in told["base_model"]
    assert "dddddddddddd" in told["base_model"]
    assert "A: 25; B: 12" in told["evaluation.sampling_steps"]
    assert {p["name"]: p["values"] for p in found["parameters"]}["method.steps"] == [7, None]


def test_two_wordings_of_one_convention_are_a_warning(tenant: Tenant, finish: Finish):
    ours, theirs = (finish(report(conventions=[f"esr-k: {text}", "same: words"])) for text in ("a", "b"))
    (told,) = compared(tenant, ours, theirs)["differences"]
    assert told["differs"] == "conventions"
    assert "esr-k" in told["message"]


def test_jobs_are_matched_by_a_common_concept_in_any_form(tenant: Tenant, finish: Finish):
    one, two = finish(report(erased=("church", "saw"))), finish(report(erased=("Churches",)))
    found = compared(tenant, one, two)
    assert found["concepts"] == ["church"]
    assert [v["job"] for v in row(found, "esr1", "church")["values"]] == ["A", "B"]
    assert not [r for r in found["metrics"] if r["concept"] == "saw"]
    assert "erased" in {each["differs"] for each in found["differences"]}
    third = finish(report(erased=("trumpet",)))
    told = errors(tenant.http().get(f"/compare?jobs={one},{third}"))["query.jobs"]
    assert "no concept is erased by all of the jobs" in told
    assert third in told


def test_an_evaluation_shows_the_method_of_the_job_that_it_judges(
    tenant: Tenant, finish: Finish, tmp_path: Path
):
    erased = finish(report(), method="uce")
    answer = tenant.http().post("/jobs/evaluate", json={"job_id": erased})
    assert answer.status_code == 202, answer.text
    judged = answer.json()["id"]
    tenant.finish(judged, {"report.json": report().model_dump_json().encode()}, tmp_path)
    assert [(j["kind"], j["method"]) for j in compared(tenant, erased, judged)["jobs"]] == [
        ("erase", "uce"),
        ("evaluate", "uce"),
    ]


def test_ids_come_with_commas_or_repeated_and_are_checked(tenant: Tenant, finish: Finish):
    one, two, client = finish(report()), finish(report()), tenant.http()
    assert client.get("/compare", params={"jobs": [one, two]}).json() == compared(tenant, one, two)
    for ids, said in (
        ([one], "names 1 job name 2 to 16"),
        ([one, one], "named twice"),
        ([one, "nonsense"], "is not an id"),
        ([one, ""], "is not an id"),
        ([one, *(str(uuid.uuid4()) for _ in range(16))], "names 17 jobs"),
    ):
        assert said in errors(client.get("/compare", params={"jobs": ",".join(ids)}))["query.jobs"]
    assert "query.jobs" in errors(client.get("/compare"))
    assert "query.job" in errors(client.get(f"/compare?job={one}&jobs={two}"))


def test_a_job_that_cannot_be_compared_is_named(
    tenant: Tenant, other: Tenant, finish: Finish, tmp_path: Path
):
    good, client = finish(report()), tenant.http()

    def refused(job: str) -> str:
        told = errors(client.get(f"/compare?jobs={good},{job}"))["query.jobs"]
        assert job in told
        return told

    theirs = other.erase()["id"]
    other.finish(theirs, {"report.json": report().model_dump_json().encode()}, tmp_path)
    unknown = str(uuid.uuid4())
    assert refused(theirs).replace(theirs, "") == refused(unknown).replace(unknown, "")
    assert "is of kind erase and queued" in refused(tenant.erase()["id"])
    assert ": it was not judged" in refused(finish(None))
    assert "not of a form" in refused(finish(b'{"format": "another"}'))
    inspected = client.post("/inspect", json={"job_id": finish_with_delta(tenant, tmp_path)}).json()["id"]
    tenant.finish(inspected, {"report.json": b"{}"}, tmp_path)
    assert "is of kind inspect" in refused(inspected)


def finish_with_delta(tenant: Tenant, folder: Path) -> str:
    job = tenant.erase()
    tenant.finish(job["id"], {"pytorch_lora_weights.safetensors": b"delta"}, folder)
    return job["id"]


def test_a_deleted_or_damaged_report_is_said_of_its_job(tenant: Tenant, finish: Finish):
    good, gone, damaged, client = finish(report()), finish(report()), finish(report()), tenant.http()
    files = {job: client.get(f"/jobs/{job}/artifacts").json()["items"][0]["id"] for job in (gone, damaged)}
    assert client.delete(f"/artifacts/{files[gone]}").status_code == 200
    found = problem(client.get(f"/compare?jobs={good},{gone}"), 410, "artifact_expired")
    assert gone in found["detail"]
    with db.transaction(tenant.database) as session:
        key = artifacts.get(session, tenant.id, uuid.UUID(files[damaged])).key
    path = Path(tenant.settings.artifacts_url.removeprefix("file://")) / key
    path.write_bytes(path.read_bytes().replace(b"0.", b"1.", 1))
    found = problem(client.get(f"/compare?jobs={good},{damaged}"), 500, "artifact_corrupt")
    assert damaged in found["detail"]
    assert client.get(f"/artifacts/{files[damaged]}").json()["corrupt_at"] is not None


def test_both_scopes_are_needed(tenant: Tenant, finish: Finish):
    path = f"/compare?jobs={finish(report())},{finish(report())}"
    assert tenant.http("jobs:read", "artifacts:read").get(path).status_code == 200
    for lacking in ("jobs:read", "artifacts:read"):
        problem(tenant.http(lacking).get(path), 403, "forbidden")


HOSTILE = ('=HYPERLINK("http://x","y")', "+1", "-2+3", "@SUM(1)", " =1", "\uff1d1", "\tx", 'a,"b"\r\n=1')


def test_csv_has_a_row_for_each_figure_and_no_cell_is_a_formula(tenant: Tenant, finish: Finish):
    names = ("church", '=HYPERLINK("http://x","y")', "-2+3")
    one, two = (finish(report(hits, erased=names)) for hits in (24, 4))
    answer = tenant.http().get(f"/compare?jobs={one},{two}", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="compare.csv"'
    assert answer.headers["vary"] == "Accept"
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    found = compared(tenant, one, two)
    assert len(rows) == sum(len(metric["values"]) for metric in found["metrics"])
    first = rows[0]
    assert (first["concept"], first["metric"], first["job_id"], first["mark"]) == (
        "church",
        "esr1",
        one,
        "better",
    )
    assert (float(first["value"]), float(first["ci_low"])) == (
        1.0,
        pytest.approx(intervals.wilson(24, 24)[0]),
    )
    assert {each["concept"] for each in rows} == {"church", "'" + names[1], "'" + names[2], "", "dog"}
    for text in HOSTILE:
        cell = comparison_csv.harmless(text)
        assert cell in (f"'{text}", text)
        assert cell.startswith("'") or text == HOSTILE[-1]
    assert comparison_csv.harmless("church") == "church"


class Page(HTMLParser):
    """The tags of a page, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [(tag, value or "") for name, value in attrs if name in ("src", "href") and tag != "a"]


def test_the_page_shows_marks_in_words_loads_nothing_and_takes_names_as_text(tenant: Tenant, finish: Finish):
    name = "<script>alert(1)</script>"
    one = finish(report(24, erased=("church", name)), labels={"team": "<b>bold</b>"})
    two = finish(report(4, erased=("church", name), digests=DIGESTS | {"base model": "d" * 64}))
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    answer = tenant.http().get(f"/compare?jobs={one},{two}", headers={"Accept": browser})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page()
    page.feed(answer.text)
    assert not {"script", "b", "img"} & set(page.tags)
    assert page.loads == []
    for words in ("▲ better", "▼ worse", "A better than B", "Not judged alike", "&lt;script&gt;", "ESR-1"):
        assert words in answer.text, words
    problem(
        tenant.http().get(f"/compare?jobs={one},{two}", headers={"Accept": "image/png"}),
        406,
        "not_acceptable",
    )


def test_a_long_report_with_unknown_fields_is_read(tenant: Tenant, finish: Finish):
    newer = json.loads(report().model_dump_json()) | {"added_later": {"x": 1}}
    newer["metrics"].append(
        {"name": "asr", "concept": "church", "attack": "inversion", "value": 0.5, "n": 16}
    )
    newer["metrics"][-1] |= {"ci_low": 0.28, "ci_high": 0.72}
    ids = [finish(json.dumps(newer).encode()) for _ in range(2)]
    found = row(compared(tenant, *ids), "asr", "church")
    assert (found["attack"], found["better"]) == ("inversion", "lower")

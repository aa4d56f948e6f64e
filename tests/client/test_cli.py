import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from expunge import core
from expunge.client import terminal
from expunge.client.cli import app
from expunge.client.terminal import Expunge
from tests.support.places import PYTHONPATH
from tests.support.service import Tenant


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.out, "width", 200)


def run(tenant: Tenant, *arguments: str) -> Result:
    return CliRunner().invoke(
        app,
        list(arguments),
        env={"EXPUNGE_URL": tenant.url, "EXPUNGE_API_KEY": tenant.key(), "COLUMNS": "200"},
    )


def test_erase_posts_a_job_and_shows_it(tenant: Tenant):
    done = run(
        tenant,
        "erase",
        "church",
        "saw",
        "--method",
        "esd",
        "--set",
        "steps=7",
        "--set",
        "eta=2",
        "--label",
        "team=x",
        "--no-wait",
    )
    assert done.exit_code == 0, done.output
    [job] = tenant.http().get("/jobs").json()["items"]
    assert job["id"] in done.stdout
    assert (job["spec"]["method"]["steps"], job["spec"]["method"]["eta"], job["labels"]) == (
        7,
        2,
        {"team": "x"},
    )
    assert [c["name"] for c in job["spec"]["concepts"]] == ["church", "saw"]


def test_what_was_noticed_about_a_request_is_told(tenant: Tenant):
    dry = run(tenant, "erase", "delivery truk", "--dry-run")
    assert "did you mean 'delivery truck'?" in dry.stderr
    assert json.loads(dry.stdout)["concepts"][0]["name"] == "delivery truk"
    done = run(tenant, "erase", "delivery truk", "--no-wait")
    assert "note: concepts[0]: 'delivery truk' is not in the vocabulary of model 'emoji'" in done.stdout


def test_the_queue_is_paused_shown_and_resumed(tenant: Tenant):
    tenant.erase()
    paused = run(tenant, "queue", "pause", "--hand-over", "--reason", "new models")
    assert paused.exit_code == 0, paused.output
    assert "UTC, running jobs are handed over: new models" in paused.stdout
    assert "1 queued, 0 running, 0 cancelling; 1 created today" in run(tenant, "queue").stdout
    assert json.loads(run(tenant, "queue", "show", "--json").stdout)["state"] == "paused"
    assert run(tenant, "queue", "resume").stdout.startswith("running")
    assert run(tenant, "queue", "stop").exit_code == 2


def test_one_concept_is_edited_debiased_or_learned_from_images(tenant: Tenant, tmp_path: Path):
    def concept(*arguments: str) -> dict:
        done = run(tenant, "erase", *arguments, "--no-wait", "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["spec"]["concepts"][0]

    assert concept("church", "--target", "castle")["target"] == "castle"
    assert concept("dog", "--attribute", "wolf", "--attribute", "fox")["attributes"] == ["wolf", "fox"]
    for k in range(4):
        Image.fromarray(np.tile(np.where(np.arange(40) < 5 * k, 255, 0).astype(np.uint8), (40, 1))).save(
            tmp_path / f"{k}.png"
        )
    images = [part for k in (1, 2, 3) for part in ("--image", str(tmp_path / f"{k}.png"))]
    masks = [part for k in (1, 2, 3) for part in ("--mask", str(tmp_path / f"{k}.png"))]
    found = concept("my dog", *images, *masks, "--idempotency-key", "k")
    assert (len(found["images"]), len(found["masks"])) == (3, 3)
    assert concept("my dog", *images, *masks, "--idempotency-key", "k") == found
    assert "name one concept" in run(tenant, "erase", "a", "b", "--target", "c").output


def test_json_is_all_of_standard_output(tenant: Tenant):
    job = json.loads(run(tenant, "erase", "church", "--method", "uce", "--no-wait", "--json").stdout)
    assert job["status"] == "queued"
    assert json.loads(run(tenant, "show", job["id"], "--json").stdout)["id"] == job["id"]
    assert [j["id"] for j in json.loads(run(tenant, "jobs", "--json").stdout)] == [job["id"]]
    assert json.loads(run(tenant, "cancel", job["id"], "--json").stdout)[0]["status"] == "cancelled"
    assert (
        json.loads(run(tenant, "retry", job["id"], "--no-wait", "--json").stdout)["retried_from"] == job["id"]
    )
    assert json.loads(run(tenant, "models", "--json").stdout)[0]["id"] == "emoji"


def test_a_dry_run_prints_the_resolved_spec(tenant: Tenant):
    assert json.loads(run(tenant, "erase", "church", "--dry-run").stdout)["method"]["name"] == "age"
    assert tenant.count() == 0


def test_a_spec_file_is_the_whole_request(tenant: Tenant, tmp_path: Path):
    file = tmp_path / "spec.json"
    file.write_text('{"concepts": ["fish"], "method": "uce", "seed": 9}')
    assert (
        json.loads(run(tenant, "erase", "--spec", str(file), "--no-wait", "--json").stdout)["spec"]["seed"]
        == 9
    )


SPEC = '{"concepts": ["fish"]}'


@pytest.mark.parametrize(
    "raw", [SPEC.encode(), SPEC.encode("utf-8-sig"), SPEC.replace("fish", "poisson de l’été").encode()]
)
def test_a_spec_file_is_read_as_editors_write_it(tenant: Tenant, tmp_path: Path, raw: bytes):
    (tmp_path / "spec.json").write_bytes(raw)
    assert run(tenant, "erase", "--spec", str(tmp_path / "spec.json"), "--dry-run").exit_code == 0


@pytest.mark.parametrize(
    ("name", "raw", "why"),
    [
        ("spec.json", SPEC.encode("utf-16"), "save it as UTF-8"),
        ("spec.json", SPEC.encode("utf-16-le"), "save it as UTF-8"),
        ("spec.json", '{"concepts": ["é"]}'.encode("latin-1"), "not UTF-8 at byte 15"),
        ("spec.json", b'{"concepts":\n ["fish"]', "at line 2, column 10"),
        ("spec.yaml", b"concepts:\n - fish\n", "YAML is not read"),
        ("spec.json", b'["fish"]', "does not hold a JSON object"),
        ("spec.json", b'{"concepts": ["fish"], "seed": NaN}', "NaN"),
        ("spec.json", b'{"concepts": ["fish"], "concepts": ["dog"]}', "'concepts' is in it twice"),
        ("spec.json", b"", "is not JSON"),
        ("spec.json", b"[" * 99_999, "nested too deeply"),
    ],
)
def test_a_spec_file_that_cannot_be_read_is_a_usage_error(
    tenant: Tenant, tmp_path: Path, name: str, raw: bytes, why: str
):
    (tmp_path / name).write_bytes(raw)
    refused(run(tenant, "erase", "--spec", str(tmp_path / name)), why)
    assert tenant.count() == 0


@pytest.mark.parametrize(
    "beside",
    [
        ["dog"],
        ["--on", "x"],
        ["--seed", "0"],
        ["--method", "age"],
        ["--fused"],
        ["--label", "a=b"],
        ["--evaluation", "seed=1"],
    ],
)
def test_nothing_that_stands_beside_a_spec_file_is_thrown_away(
    tenant: Tenant, tmp_path: Path, beside: list[str]
):
    (tmp_path / "spec.json").write_text(SPEC)
    for command in ("erase", "hide") if beside[0] != "--on" else ("erase",):
        refused(
            run(tenant, command, *beside, "--spec", str(tmp_path / "spec.json")),
            "CONCEPTS" if beside == ["dog"] else beside[0],
        )
    assert tenant.count() == 0


def refused(done: Result, why: str) -> None:
    """One message, exit code 2, no traceback."""
    text = " ".join(done.output.replace("│", " ").split())
    assert (done.exit_code, "Traceback" in text, why in text) == (2, False, True), text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "ridge=NaN"],
        ["--set", "ridge=-Infinity"],
        ["--set", "ridge=1e999"],
        ["--set", "shares=[NaN]"],
        ["--set", "a.b"],
        ["--set", "=1"],
        ["--set", "a..b=1"],
        ["--set", "lora=1", "--set", "lora.rank=2"],
        ["--set", "lora.rank=2", "--set", "lora=1"],
        ["--label", "x"],
    ],
)
def test_a_parameter_that_no_request_can_hold_is_a_usage_error(tenant: Tenant, arguments: list[str]):
    refused(run(tenant, "erase", "church", *arguments, "--dry-run"), f"Invalid value for {arguments[0]}")


def test_a_point_leads_into_an_object(tenant: Tenant):
    done = run(
        tenant,
        "erase",
        "church",
        "--set",
        "lora.rank=8",
        "--evaluation",
        "thresholds.esr1=0.9",
        "--evaluation",
        "erased_images=6",
        "--dry-run",
    )
    spec = json.loads(done.stdout)
    assert spec["method"]["lora"]["rank"] == 8
    assert (spec["evaluation"]["thresholds"]["esr1"], spec["evaluation"]["erased_images"]) == (0.9, 6)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Three JPEGs with names that say nothing of it."""
    for k in range(3):
        Image.fromarray(np.full((40, 40, 3), 80 * k, np.uint8)).save(tmp_path / f"p{k}.jfif", "JPEG")
    return [part for k in range(3) for part in ("--image", str(tmp_path / f"p{k}.jfif"))]


def uploads(tenant: Tenant) -> int:
    return len(
        [row for row in tenant.http().get("/audit").json()["items"] if row["action"] == "artifact.uploaded"]
    )


def test_a_dry_run_with_images_checks_them_and_sends_none(tenant: Tenant, pictures: list[str]):
    done = run(tenant, "erase", "starry night", *pictures, "--set", "steps=9", "--dry-run")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["method"]["steps"], found["concepts"][0]["images"]) == (9, pictures[1::2])
    assert "the images were not sent" in done.stderr
    assert "not in the vocabulary" not in done.stderr  # the word is learned
    assert uploads(tenant) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--set", "stepps=9"], "steps"),
        (["--on", "00000000-0000-4000-8000-00000000000a"], "base_job_id"),
        (["--model", "nowhere"], "nowhere"),
        (["--mask", "empty"], "is empty"),
    ],
)
def test_a_request_that_is_refused_has_sent_no_image(
    tenant: Tenant, pictures: list[str], tmp_path: Path, arguments: list[str], why: str
):
    (tmp_path / "empty").touch()
    refused(
        run(
            tenant,
            "erase",
            "starry night",
            *pictures,
            *(str(tmp_path / a) if a == "empty" else a for a in arguments),
            "--no-wait",
        ),
        why,
    )
    refused(run(tenant, "erase", "starry night", *pictures[:4], "--no-wait"), "images")  # too few
    refused(
        run(tenant, "erase", "starry night", *pictures[:2] * 3, "--no-wait"),
        "only 1 of the 3 images is distinct",
    )
    assert (uploads(tenant), tenant.count()) == (0, 0)


@pytest.mark.parametrize("content", [b"", b"no picture", b"print('hello')"])
def test_what_is_no_image_is_one_line(tenant: Tenant, tmp_path: Path, content: bytes):
    (tmp_path / "r3.py").write_bytes(content)
    refused(
        run(tenant, "erase", "x", *["--image", str(tmp_path / "r3.py")] * 3, "--dry-run"),
        str(tmp_path / "r3.py"),
    )
    refused(run(tenant, "erase", "x", *["--image", str(tmp_path)] * 3, "--dry-run"), "is a directory")
    refused(run(tenant, "erase", "x", *["--image", str(tmp_path / "no")] * 3, "--dry-run"), "does not exist")


def test_each_message_is_printed_once(tenant: Tenant):
    done = run(tenant, "erase", "church", "--set", "stepps=9", "--dry-run")
    assert done.stderr.count("has no parameter 'stepps'") == 1
    both = run(tenant, "erase", "church", "--set", "stepps=9", "--set", "ettta=2", "--dry-run")
    assert [both.stderr.count(f"has no parameter '{name}'") for name in ("stepps", "ettta")] == [1, 1]


def test_download_of_a_job_without_files_says_so(tenant: Tenant):
    job = tenant.erase()["id"]
    assert run(tenant, "cancel", job).exit_code == 0
    done = run(tenant, "download", job)
    assert (
        done.exit_code,
        "is cancelled: there is nothing to download" in " ".join(done.stderr.split()),
    ) == (1, True)


def test_a_running_job_is_shown_with_where_it_stands(tenant: Tenant):
    job = tenant.erase(concepts=[{"name": "church", "target": "castle"}])["id"]
    assert "church → castle" in run(tenant, "show", job).stdout
    tenant.progress(job, tenant.claim(job), 3)
    shown = run(tenant, "show", job).stdout
    assert "erase 3/10" in shown
    assert "ridge" in shown  # what the method was told
    assert "started" in shown


def test_without_a_terminal_a_line_tells_each_phase(tenant: Tenant, tmp_path: Path):
    job = tenant.erase()["id"]
    fence = tenant.claim(job)
    for step in (1, 2, 3):
        tenant.progress(job, fence, step)
    tenant.publish(job, fence, {"a": b"a"}, tmp_path)
    done = run(tenant, "wait", job)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("erase ") == 1
    assert "erase" not in [
        line for line in run(tenant, "wait", job, "--json").stderr.splitlines() if not line.startswith("{")
    ]


def test_ctrl_c_says_that_the_job_goes_on_and_how_to_look_again(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
):
    job = tenant.erase()["id"]
    monkeypatch.setattr(Expunge, "wait", interrupted)
    done = run(tenant, "wait", job)
    assert (done.exit_code, f"'expunge wait {job}' follows it again" in " ".join(done.stderr.split())) == (
        130,
        True,
    )


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_long_name_takes_few_lines(tenant: Tenant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal.out, "width", 80)
    tenant.erase(concepts=["a" * 200])
    assert len(run(tenant, "jobs").stdout.splitlines()) < 8


def test_the_version_is_told():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"expunge {version('expunge')}\n"


def test_an_unforeseen_error_is_one_line_without_the_key(tenant: Tenant, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError(f"what is this: {os.environ['EXPUNGE_API_KEY']}")

    monkeypatch.setattr(Expunge, "models", broken)
    done = run(tenant, "models")
    assert (done.exit_code, done.stderr.count("\n"), "EXPUNGE_DEBUG=1" in done.stderr) == (70, 1, True)
    assert "ex_" not in done.stderr
    assert isinstance(run(tenant, "--debug", "models").exception, RuntimeError)


def test_a_name_that_is_no_text_is_one_line(tenant: Tenant):
    refused(run(tenant, "erase", "chur\udce9ch", "--dry-run"), "is not UTF-8")


def test_the_same_idempotency_key_makes_one_job(tenant: Tenant):
    for _ in range(2):
        assert (
            run(tenant, "erase", "church", "--method", "uce", "--no-wait", "--idempotency-key", "k").exit_code
            == 0
        )
    assert tenant.count() == 1


def test_hide_posts_a_hide_job(tenant: Tenant):
    done = run(
        tenant,
        "hide",
        "church",
        "--method",
        "naive",
        "--set",
        "steps=7",
        "--recovery",
        "length=4",
        "--no-wait",
        "--json",
    )
    assert done.exit_code == 0, done.output
    job = json.loads(done.stdout)
    assert (job["kind"], job["spec"]["method"]["steps"], job["spec"]["recovery"]["length"]) == ("hide", 7, 4)
    assert json.loads(run(tenant, "hide", "church", "--dry-run").stdout)["method"]["name"] == "age"
    refused = run(tenant, "hide", "church", "--seal-to", "nonsense", "--no-wait")
    assert refused.exit_code == 2
    assert "seal_to" in refused.stderr


def test_a_recovery_key_is_fetched_listed_and_revoked(tenant: Tenant, tmp_path: Path):
    job = json.loads(run(tenant, "hide", "church", "--no-wait", "--json").stdout)["id"]
    tenant.finish(job, {"recovery_key.safetensors": b"secret", "report.json": b"{}"}, tmp_path)
    assert run(tenant, "wait", job, "--download", str(tmp_path / "out")).exit_code == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["report.json"]
    fetched = run(tenant, "recovery-key", job, str(tmp_path / "key"))
    assert Path(fetched.stdout.strip()).read_bytes() == b"secret"
    assert json.loads(run(tenant, "key-reads", job, "--json").stdout)[0]["stop"] == 6
    assert "127.0.0.1" in run(tenant, "key-reads", job).stdout
    assert "revoked at" in run(tenant, "revoke-key", job).stdout
    again = run(tenant, "recovery-key", job, str(tmp_path / "again"))
    assert again.exit_code == 2
    assert "410 recovery_key_revoked" in again.stderr


CHECK = {"metric": "esr1", "concept": "church", "value": 0.9, "threshold": 0.95, "passed": False}


@pytest.mark.parametrize(
    ("verdict", "code", "shown"),
    [
        (None, 0, "succeeded"),
        ({"passed": True, "checks": [{**CHECK, "value": 1.0, "passed": True}]}, 0, "verdict: passed"),
        ({"status": "passed", "checks": [{**CHECK, "status": "passed"}]}, 0, "verdict: passed"),
        ({"status": "not shown", "checks": [{**CHECK, "status": "not shown"}]}, 1, "verdict: not shown"),
        ({"status": "failed", "checks": [{**CHECK, "ci_low": 0.8, "ci_high": 0.94}]}, 1, "0.800 – 0.940"),
        ({"passed": False, "checks": [CHECK]}, 1, "esr1 church"),
        (
            {"passed": False, "checks": [CHECK], "advice": ["Not erased: [church]."]},
            1,
            "advice: Not erased: [church].",
        ),
    ],
)
def test_wait_ends_with_0_only_when_the_verdict_allows(
    tenant: Tenant, tmp_path: Path, verdict: dict | None, code: int, shown: str
):
    job = tenant.erase()
    tenant.finish(job["id"], {"a.txt": b"a"}, tmp_path, verdict)
    done = run(tenant, "wait", job["id"])
    assert done.exit_code == code, done.output
    assert shown in done.stdout


def test_wait_ends_with_1_when_one_of_several_failed(tenant: Tenant, tmp_path: Path):
    good, bad = tenant.erase()["id"], tenant.erase()["id"]
    tenant.finish(good, {}, tmp_path)
    tenant.fail(bad, tenant.claim(bad))
    done = run(tenant, "wait", good, bad)
    assert done.exit_code == 1
    assert "diverged: the loss is NaN" in done.stdout
    assert run(tenant, "wait", good).exit_code == 0


def test_wait_downloads_what_succeeded(tenant: Tenant, tmp_path: Path):
    job = tenant.erase()
    tenant.finish(job["id"], {"report.json": b"{}"}, tmp_path)
    assert run(tenant, "wait", job["id"], "--download", str(tmp_path / "out")).exit_code == 0
    assert (tmp_path / "out" / "report.json").read_bytes() == b"{}"


def test_download_says_what_is_withheld_and_brings_the_rest(tenant: Tenant, tmp_path: Path):
    job, files = tenant.erase()["id"], {"report.json": b"{}", "delta.safetensors": b"delta"}
    tenant.finish(job, files, tmp_path, {"status": "failed", "checks": [CHECK]}, {"delta.safetensors"})
    assert "delta.safetensors" in run(tenant, "show", job).stdout
    done = run(tenant, "download", job, str(tmp_path / "out"))
    assert done.exit_code == 0
    assert "withheld, as the verdict is not 'passed': delta.safetensors" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]


def test_download_names_the_files(tenant: Tenant, tmp_path: Path):
    job = tenant.erase()
    tenant.finish(job["id"], {"a b.json": b"{}"}, tmp_path)
    assert run(tenant, "download", job["id"], str(tmp_path)).stdout.strip() == str(tmp_path / "a b.json")


def test_a_problem_is_one_message_and_exit_code_2(tenant: Tenant):
    done = run(tenant, "erase", "church", "--method", "agee")
    assert done.exit_code == 2
    assert "did you mean 'age'" in done.stderr
    assert "Traceback" not in done.output


def test_a_markup_in_a_concept_is_shown_as_it_is(tenant: Tenant):
    tenant.erase(concepts=["[red]fox[/nothing]"])
    assert "[red]fox[/nothing]" in run(tenant, "jobs").stdout


def test_an_unreachable_service_is_one_message():
    done = CliRunner().invoke(app, ["jobs", "--url", "http://127.0.0.1:1"], env={"EXPUNGE_API_KEY": "x"})
    assert done.exit_code == 2
    assert "Start it with 'expunge up'" in " ".join(done.stderr.split())


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """An installed package that brings a command; the environment to find it."""
    (tmp_path / "room.py").write_text(
        'print("the room is loaded")\ndef main(name: str, loud: bool = False) -> None:\n    "Greet."\n   '
        ' print("hello", name, loud)\n'
    )
    folder = tmp_path / "room-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: room\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[expunge.commands]\ngreet = room:main\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), PYTHONPATH])}


def command(environment: dict[str, str], *arguments: str) -> str:
    code = "from expunge.client.cli import app; app()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_commands_of_other_rooms_are_listed_without_being_loaded(plugin: dict[str, str]):
    text = command(plugin, "--help")
    assert "greet" in text
    assert "the room is loaded" not in text


def test_commands_of_other_rooms_run_with_their_own_options(plugin: dict[str, str]):
    assert command(plugin, "greet", "you", "--loud").splitlines() == ["the room is loaded", "hello you True"]
    assert "Greet." in command(plugin, "greet", "--help")


def test_inspect_posts_an_inspect_job(tenant: Tenant, tmp_path: Path):
    job = json.loads(run(tenant, "erase", "church", "--method", "uce", "--no-wait", "--json").stdout)
    tenant.finish(job["id"], {}, tmp_path)
    done = run(
        tenant,
        "inspect",
        "--job",
        job["id"],
        "--space",
        "english",
        "--set",
        "locality=2",
        "--no-wait",
        "--json",
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["kind"], found["spec"]["concept_space"], found["spec"]["locality"]) == (
        "inspect",
        "english",
        2,
    )


def test_impact_prints_what_would_be_hurt_and_the_targets(tenant: Tenant):
    found = json.loads(run(tenant, "impact", "church", "--top", "3", "--json").stdout)
    assert len(found["hurt"]) == 3
    shown = run(tenant, "impact", "church", "--method", "esd", "--set", "steps=20")
    assert shown.exit_code == 0, shown.output
    assert all(row["concept"] in shown.stdout for row in found["hurt"])
    assert found["targets"][0]["targets"][0]["target"] in shown.stdout
    wrong = run(tenant, "impact", "chruch")
    assert (wrong.exit_code, "church" in wrong.output) == (2, True)


def test_a_narrow_table_cuts_no_id_and_no_concept(tenant: Tenant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal.out, "width", 80)
    job = tenant.erase(concepts=["an unusually long name of a concept"])
    shown = run(tenant, "jobs").stdout
    assert job["id"] in shown
    assert "…" not in shown


def test_uploads_and_ended_jobs_are_listed_and_deleted(tenant: Tenant, tmp_path: Path):
    Image.new("RGB", (40, 40)).save(tmp_path / "me.png")
    with Expunge(tenant.url, tenant.key()) as client:
        upload = client.upload_image(tmp_path / "me.png")
    assert upload.id in run(tenant, "artifacts", "list").stdout
    assert run(tenant, "artifacts", "delete", upload.id).exit_code == 0
    assert upload.id not in [
        item["id"]
        for item in json.loads(run(tenant, "artifacts", "list", "--json").stdout)
        if not item.get("deleted_at")
    ]
    job = tenant.erase()["id"]
    refused(run(tenant, "delete", job), "wrong_state")
    assert run(tenant, "cancel", job).exit_code == 0
    assert run(tenant, "delete", job).exit_code == 0
    refused(run(tenant, "show", job), "404")


def test_a_prompt_set_is_sent_once_the_rest_is_known_to_be_good(tenant: Tenant, tmp_path: Path):
    file = tmp_path / "set.csv"
    file.write_text("prompt,seed\na church,7\n")
    asked = ("erase", "church", "--method", "uce", "--prompts", str(file))
    assert run(tenant, *asked, "--dry-run").exit_code == 0
    assert run(tenant, *asked, "--evaluation", "erased_images=-1").exit_code == 2
    assert json.loads(run(tenant, "artifacts", "list", "--json").stdout) == []
    done = run(tenant, *asked, "--evaluation", "nudity_thresholds=[0.4]", "--no-wait", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["spec"]["evaluation"]
    (upload,) = json.loads(run(tenant, "artifacts", "list", "--json").stdout)
    assert (found["prompts"], found["nudity_thresholds"]) == (upload["id"], [0.4])

    # A bad row, a missing file, a name that the service lacks
    file.write_text("prompt,seed\na church,x\n")
    assert "line 2: seed is 'x'" in run(tenant, *asked).output
    assert "there is no file" in run(tenant, "erase", "church", "--prompts", str(tmp_path / "no.csv")).output
    assert "prompt sets: none" in run(tenant, "hide", "church", "--prompts", "i2p").output


@pytest.mark.parametrize("id_", ["../jobs", "", "a/b", "x?y=1", "#", ".."])
@pytest.mark.parametrize("command", ["show", "wait", "cancel", "retry", "download", "delete", "key-reads"])
def test_a_text_that_is_no_id_leads_to_no_other_address(tenant: Tenant, command: str, id_: str):
    done = run(tenant, command, id_)
    assert done.exit_code == 2
    assert done.stderr == f"'{id_}' is not an id: give a UUID, such as 0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11\n"


@pytest.mark.parametrize("answer", [b"<html></html>", b"[]", b'{"hello": 1}'])
def test_an_address_where_something_else_answers_is_one_line(monkeypatch: pytest.MonkeyPatch, answer: bytes):
    monkeypatch.setenv("EXPUNGE_URL", "http://127.0.0.1:9")
    other = httpx.Response(200, content=answer, request=httpx.Request("GET", "http://127.0.0.1:9"))
    monkeypatch.setattr(httpx.Client, "request", lambda *_, **__: other)
    done = CliRunner().invoke(app, ["show", "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "set EXPUNGE_URL to" in done.stderr
    assert "pydantic" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["erase", "church", "--label", "a=1", "--label", "a=2"], "'a' is given twice"),
        (["erase", "church", "--set", "steps=5", "--set", "steps=6"], "'steps' is given twice"),
        (["erase", "church", "--method", "esd", "--set", "name=uce"], "give it as --method"),
        (
            ["evaluate", "church", "--artifact", "x", "--delta", __file__],
            "give one of --artifact and --delta, not both",
        ),
        (["inspect", "--job", "x", "--delta", __file__], "give one of --job and --delta, not both"),
    ],
)
def test_no_option_is_thrown_away_for_another(tenant: Tenant, arguments: list[str], why: str):
    before = uploads(tenant)
    refused(run(tenant, *arguments), why)
    assert uploads(tenant) == before


def test_a_refusal_is_one_line_however_narrow_the_output(tenant: Tenant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal.err, "width", 40)
    for arguments in (
        ["erase", "church", "--evaluation", "thresholds.esr1=95"],
        ["impact", "nudity"],
        ["jobs", "--kind", "foo"],
    ):
        done = run(tenant, *arguments)
        assert done.exit_code == 2
        assert len([line for line in done.stderr.splitlines() if not line.startswith('{"service"')]) == 1, (
            done.stderr
        )


def written(folder: Path) -> Path:
    """A LoRA of one layer of the bundled model."""
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    with safe_open(
        Path(core.__path__[0]) / "bundled/emoji/unet/diffusion_pytorch_model.safetensors", "numpy"
    ) as weights:
        out, into = weights.get_slice(f"{layer.removeprefix('unet.')}.weight").get_shape()
    halves = {
        f"{layer}.lora_A.weight": np.ones((2, into), np.float32),
        f"{layer}.lora_B.weight": np.ones((out, 2), np.float32),
    }
    save_file(halves, folder / "lora.safetensors")
    return folder / "lora.safetensors"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["evaluate"], "concepts: "),
        (["evaluate", "church", "--evaluation", "steps=3"], "evaluation.steps"),
        (["evaluate", "church", "--model", "nope"], "there is no model 'nope'"),
        (["inspect", "--space", "modl"], "concept_space"),
        (["inspect", "--set", "top=0"], "top: "),
        (["inspect", "--against", "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"], "against_job_id: there is no job"),
    ],
)
def test_a_request_that_is_refused_has_sent_no_delta(
    tenant: Tenant, tmp_path: Path, arguments: list[str], why: str
):
    refused(run(tenant, *arguments, "--delta", str(written(tmp_path))), why)
    assert uploads(tenant) == 0


def test_a_delta_is_uploaded_once_its_request_is_good(tenant: Tenant, tmp_path: Path):
    for arguments in (["evaluate", "church"], ["inspect"]):
        done = run(tenant, *arguments, "--delta", str(written(tmp_path)), "--no-wait", "--json")
        assert json.loads(done.stdout)["status"] == "queued"
    assert uploads(tenant) == 2

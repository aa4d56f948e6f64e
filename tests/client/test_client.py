import random
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import save

from expunge.client import (
    ApiError,
    Artifact,
    BadFile,
    BadSetting,
    ConnectionFailed,
    Event,
    Expunge,
    IntegrityError,
    Job,
    NoRecoveryKey,
    WaitTimeout,
    download,
    sse,
)
from expunge.client.transport import pause
from expunge.store import db, queue_quotas
from expunge.store.settings import Settings
from tests.support.lossy_server import lossy
from tests.support.service import Tenant, make_settings, serve

BYTES = random.Random(2).randbytes(2_000_000)


@pytest.fixture
def expunge(tenant: Tenant) -> Iterator[Expunge]:
    with Expunge(tenant.url, tenant.key()) as client:
        yield client


def hasty(url: str, key: str, retries: int = 5) -> Expunge:
    """A client that does not pause between tries."""
    client = Expunge(url, key, retries=retries)
    client.transport.sleep = lambda _: None
    return client


def test_erase_posts_what_was_asked(expunge: Expunge):
    job = expunge.erase(
        ["church", {"name": "trumpet", "target": "saxophone"}],
        method={"name": "uce", "ridge": 0.7},
        preserve=["mosque"],
        seed=3,
        labels={"a": "b"},
    )
    assert isinstance(job, Job)
    assert (job.status, job.kind, job.labels) == ("queued", "erase", {"a": "b"})
    assert [c["name"] for c in job.spec["concepts"]] == ["church", "trumpet"]
    assert (job.spec["method"]["ridge"], job.spec["seed"], job.spec["preserve"]) == (0.7, 3, ["mosque"])
    assert expunge.job(job) == job


def test_hide_posts_what_was_asked(expunge: Expunge):
    job = expunge.hide(
        "church",
        method={"name": "age", "steps": 7},
        recovery={"length": 4},
        preserve=["mosque"],
        labels={"a": "b"},
    )
    assert (job.kind, job.labels, job.spec["preserve"]) == ("hide", {"a": "b"}, ["mosque"])
    assert (job.spec["method"]["steps"], job.spec["recovery"]["length"], job.spec["seal_to"]) == (7, 4, None)
    public = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    assert expunge.hide("church", seal_to=public).spec["seal_to"] == public


def test_inspect_posts_what_was_asked(expunge: Expunge, tenant: Tenant, tmp_path: Path):
    first, second = expunge.erase("church", method="uce"), expunge.erase("dog", method="uce")
    for job in (first, second):
        tenant.finish(job.id, {}, tmp_path)
    found = expunge.inspect(
        job=first, against=second, concept="church", concept_space=["mosque", "dog"], locality=3
    )
    assert (found.kind, found.spec["job_id"], found.spec["against_job_id"]) == (
        "inspect",
        first.id,
        second.id,
    )
    assert (found.spec["concept"]["name"], found.spec["concept_space"], found.spec["locality"]) == (
        "church",
        ["mosque", "dog"],
        3,
    )


def test_impact_answers_at_once(expunge: Expunge, tenant: Tenant):
    found = expunge.impact("church", method={"name": "age", "steps": 50}, top=3)
    assert (found.method, len(found.hurt), found.targets[0]["concept"]) == ("age", 3, "church")
    assert tenant.count() == 0


@pytest.fixture
def hidden(expunge: Expunge, tenant: Tenant, tmp_path: Path) -> Job:
    """A finished hide job with a delta and a recovery key."""
    job = expunge.hide("church")
    tenant.finish(job.id, {"delta": b"delta", "recovery_key.safetensors": b"secret"}, tmp_path)
    return expunge.job(job)


def test_a_job_s_download_leaves_its_recovery_key_where_it_is(expunge: Expunge, hidden: Job, tmp_path: Path):
    assert expunge.download(hidden, tmp_path / "all") == [tmp_path / "all" / "delta"]
    [path] = expunge.download(expunge.recovery_key(hidden), tmp_path / "key")
    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_recovery_key_is_read_audited_and_revoked(
    expunge: Expunge, tenant: Tenant, hidden: Job, tmp_path: Path
):
    key = expunge.recovery_key(hidden)
    with Expunge(tenant.url, tenant.key("jobs:read", "artifacts:read")) as stranger:
        assert stranger.recovery_key(hidden).id == key.id
        with pytest.raises(ApiError, match="keys:read"):
            stranger.download(key, tmp_path / "no")
    expunge.download(key, tmp_path / "yes")
    [read] = expunge.reads(key)
    assert (read.start, read.stop, read.api_key["name"]) == (0, 6, "test")
    assert expunge.revoke(key).revoked_at is not None
    with pytest.raises(ApiError) as caught:
        expunge.download(key, tmp_path / "late")
    assert (caught.value.status, caught.value.code) == (410, "recovery_key_revoked")


def test_a_job_without_a_recovery_key_says_so(expunge: Expunge, tenant: Tenant):
    with pytest.raises(NoRecoveryKey, match="hide job"):
        expunge.recovery_key(tenant.erase()["id"])


def test_url_and_key_come_from_the_environment(tenant: Tenant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXPUNGE_URL", tenant.url + "/")
    monkeypatch.setenv("EXPUNGE_API_KEY", tenant.key())
    with Expunge() as client:
        assert client.erase("church", method="uce").status == "queued"


def test_a_problem_tells_field_and_remedy(expunge: Expunge):
    with pytest.raises(ApiError) as caught:
        expunge.erase("church", method="agee")
    assert (caught.value.status, caught.value.code) == (422, "invalid_request")
    assert caught.value.problem.errors[0].field == "method"
    assert "did you mean 'age'" in str(caught.value)


def test_validate_resolves_without_storing(expunge: Expunge, tenant: Tenant):
    assert expunge.validate("erase", {"concepts": ["church"]}).spec["method"]["name"] == "age"
    assert tenant.count() == 0


def test_jobs_go_through_every_page(expunge: Expunge, tenant: Tenant):
    made = [tenant.erase(labels={"n": str(n % 2)})["id"] for n in range(103)]
    assert [job.id for job in expunge.jobs()] == made[::-1]
    assert len(list(expunge.jobs(labels={"n": "1"}))) == 51


def test_wait_reports_progress_and_returns_the_end(expunge: Expunge, tenant: Tenant, tmp_path: Path):
    job = expunge.erase("church", method="uce")
    fence, seen = [0], list[Event]()

    def on_progress(event: Event) -> None:
        seen.append(event)
        if event.type == "queued":
            fence[0] = tenant.claim(job.id)
            tenant.progress(job.id, fence[0], 1)
        if event.type == "progress":
            tenant.publish(job.id, fence[0], {"a": b"a"}, tmp_path, {"passed": True, "checks": []})

    ended = expunge.wait(job, on_progress)
    assert [e.type for e in seen] == ["queued", "started", "progress", "succeeded"]
    assert ended.ok
    assert ended.passed is True
    assert ended.artifacts[0].name == "a"


def test_wait_gives_up_after_its_timeout(expunge: Expunge):
    with pytest.raises(WaitTimeout, match="goes on"):
        expunge.wait(expunge.erase("church", method="uce"), timeout=0)


@pytest.mark.parametrize(
    ("status", "verdict", "ok"),
    [
        ("succeeded", None, True),
        ("succeeded", {"passed": True, "checks": [{}]}, True),
        ("succeeded", {"passed": None, "checks": []}, True),
        ("succeeded", {"passed": None, "checks": [{}]}, False),
        ("succeeded", {"passed": False, "checks": [{}]}, False),
        ("succeeded", {"status": "passed", "checks": [{}]}, True),
        ("succeeded", {"status": "not shown", "checks": [{}]}, False),
        ("succeeded", {"status": "failed", "checks": [{}]}, False),
        ("failed", None, False),
    ],
)
def test_a_job_is_ok_only_with_its_verdict(status: str, verdict: dict | None, ok: bool):
    job = Job.model_validate(
        {
            "id": "x",
            "kind": "erase",
            "status": status,
            "spec": {},
            "verdict": verdict,
            "created_at": "2026-01-01T00:00:00Z",
        }
    )
    assert job.ok is ok


def test_a_lost_answer_is_asked_for_again_with_the_same_key(tenant: Tenant):
    with lossy(tenant.url, 0, 10) as line, hasty(line.url, tenant.key()) as client:
        job = client.erase("church", method="uce")
        assert line.opened == 3
    assert tenant.count() == 1
    assert tenant.http().get(f"/jobs/{job.id}").status_code == 200


def test_a_dead_service_is_an_error_after_the_last_try(tenant: Tenant):
    with (
        lossy(tenant.url, 0, 0, 0, 0) as line,
        hasty(line.url, tenant.key(), retries=2) as client,
        pytest.raises(ConnectionFailed, match="cannot be reached"),
    ):
        client.models()
    assert line.opened == 3


def test_429_is_tried_again_after_the_pause_asked_for(postgres_url: str, redis_url: str, tmp_path: Path):
    settings = make_settings(postgres_url, redis_url, tmp_path, max_active_jobs=1)
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        blocking = tenant.erase()["id"]
        client, pauses = Expunge(url, tenant.key()), []

        def free(seconds: float) -> None:
            pauses.append(seconds)
            tenant.http().post(f"/jobs/{blocking}/cancel")

        client.transport.sleep = free
        assert client.erase("church", method="uce").status == "queued"
        assert len(pauses) == 1
        assert pauses[0] > 15  # the service asked for 30 s


def test_a_quota_that_ends_with_the_day_is_not_waited_for(postgres_url: str, redis_url: str, tmp_path: Path):
    settings = make_settings(postgres_url, redis_url, tmp_path, max_jobs_a_day=1)
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        with db.transaction(tenant.database) as session:
            left = queue_quotas.seconds_to_midnight(session)
        time.sleep(left + 1 if left < 60 else 0)  # or the quota would end while the test runs
        tenant.erase()
        client, pauses = Expunge(url, tenant.key()), []
        client.transport.sleep = pauses.append
        with pytest.raises(ApiError, match=r"You have reached max_jobs_a_day \(1\)"):
            client.erase("church", method="uce")
        assert pauses == []


def test_the_queue_is_paused_and_resumed(expunge: Expunge):
    paused = expunge.pause_queue(reason="new models")
    assert (paused.state, paused.pause.reason, expunge.queue()) == ("paused", "new models", paused)
    assert expunge.erase("church", method="uce").status == "queued"
    assert expunge.resume_queue().state == "running"


def test_pauses_double_and_are_bounded():
    assert all(0.35 < pause(0, None) <= 0.5 for _ in range(20))
    assert all(3 <= pause(3, None) <= 4 for _ in range(20))
    assert pause(60, None) <= 30


def test_events_resume_over_a_bad_line_without_gap_or_repeat(tenant: Tenant, tmp_path: Path):
    job = tenant.erase()
    fence = tenant.claim(job["id"])
    for step in range(40):
        tenant.progress(job["id"], fence, step)
    tenant.publish(job["id"], fence, {}, tmp_path)
    with lossy(tenant.url, 3000, 0, 2500, 900, 4000) as line, hasty(line.url, tenant.key()) as client:
        assert [event.seq for event in client.events(job["id"])] == list(range(1, 44))
        assert line.opened > 4


def test_a_download_resumes_where_the_line_was_cut(tenant: Tenant, tmp_path: Path):
    job = tenant.erase()
    tenant.finish(job["id"], {"delta.safetensors": BYTES}, tmp_path)
    with lossy(tenant.url, 740_000, 740_000) as line, hasty(line.url, tenant.key()) as client:
        [path] = client.download(job["id"], tmp_path / "out")
        assert line.opened == 3
    assert path == tmp_path / "out" / "delta.safetensors"
    assert path.read_bytes() == BYTES
    assert list(path.parent.iterdir()) == [path]


def test_a_download_goes_on_from_an_earlier_run(expunge: Expunge, tenant: Tenant, tmp_path: Path):
    job = tenant.erase()
    [made] = tenant.finish(job["id"], {"d": BYTES}, tmp_path)
    (tmp_path / f"{made.id}.{made.sha256[:16]}.part").write_bytes(BYTES[:1_999_999])
    with lossy(tenant.url, None) as line, hasty(line.url, tenant.key()) as client:
        assert client.download(job["id"], tmp_path)[0].read_bytes() == BYTES
    before = (tmp_path / "d").stat().st_mtime_ns
    expunge.download(job["id"], tmp_path)
    assert (tmp_path / "d").stat().st_mtime_ns == before


def test_wrong_bytes_are_thrown_away(expunge: Expunge, tenant: Tenant, tmp_path: Path):
    job = tenant.erase()
    [made] = tenant.finish(job["id"], {"d": BYTES}, tmp_path)
    part = tmp_path / f"{made.id}.{made.sha256[:16]}.part"
    part.write_bytes(b"x" * 100)
    with pytest.raises(IntegrityError, match="was deleted"):
        expunge.download(job["id"], tmp_path)
    assert not part.exists()
    assert not (tmp_path / "d").exists()
    assert expunge.download(job["id"], tmp_path)[0].read_bytes() == BYTES


def test_an_empty_artifact_is_downloaded_too(expunge: Expunge, tenant: Tenant, tmp_path: Path):
    job = tenant.erase()
    tenant.finish(job["id"], {"fused/unet/empty": b""}, tmp_path)
    assert expunge.download(job["id"], tmp_path / "o") == [tmp_path / "o" / "fused" / "unet" / "empty"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "c:x"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str):
    with pytest.raises(IntegrityError):
        download.path_in(tmp_path, name)


def test_an_upload_that_is_no_delta_is_a_problem(expunge: Expunge, tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ApiError) as caught:
        expunge.upload(tmp_path / "a.bin")
    assert caught.value.code == "not_safetensors"


@pytest.mark.parametrize("name", ["a.JPG", "a.jfif", "a", "a.png", "a.heic"])
def test_an_image_is_uploaded_by_what_its_bytes_say(expunge: Expunge, tmp_path: Path, name: str):
    Image.new("RGB", (40, 40), "red").save(tmp_path / name, "JPEG")
    found = expunge.upload_image(tmp_path / name)
    assert (found.name, found.media_type, found.job_id) == (name, "image/png", None)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "is empty"), (b"GIF89a", "is not a PNG, JPEG or WebP"), (b"RIFF    WAVEfmt ", "is not a PNG")],
)
def test_what_is_no_image_is_not_sent(
    expunge: Expunge, tenant: Tenant, tmp_path: Path, content: bytes, why: str
):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadFile, match=why):
        expunge.upload_image(tmp_path / "a.png")


KEY = "ex_live_0123456789abcdef"


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {} ", "\ufeff{}", "\t{}\n\n"])
def test_a_key_and_an_address_may_stand_in_white_space(
    service: tuple, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, around: str
):
    monkeypatch.setenv("EXPUNGE_API_KEY", around.format(tenant.key()))
    monkeypatch.setenv("EXPUNGE_URL", around.format(f"{tenant.url}/"))
    with Expunge() as client:
        assert client.models()


@pytest.mark.parametrize(
    "key",
    [
        f"“{KEY}”",
        f'"{KEY}"',
        f"{KEY}é",
        f"{KEY}\n{KEY}",
        f"{KEY} {KEY}",
        f"\x1b{KEY}",
        f"Bearer {KEY}",
        f"{KEY}\u200b{KEY}",
    ],
)
def test_a_malformed_key_is_named_and_never_shown(key: str):
    with pytest.raises(BadSetting, match="api_key is malformed") as found:
        Expunge("http://127.0.0.1:1", key)
    assert KEY not in "".join(traceback.format_exception(found.value)).replace(f'"{key}"', "")
    assert KEY not in repr(vars(found.value))


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "localhost",
        "“http://a”",
        "ftp://a",
        "http://",
        "http://a:99999",
        "http://a b",
        "http://a/?x=1",
        "http://a\u201d",
    ],
)
def test_a_malformed_address_is_named(url: str):
    with pytest.raises(BadSetting, match=r"^url"):
        Expunge(url, KEY)


def test_neither_a_client_nor_its_errors_show_the_key():
    with Expunge("http://name:word@127.0.0.1:1", KEY) as client:
        with pytest.raises(ConnectionFailed, match="Start it with 'expunge up'") as found:
            client.models()
        assert (KEY in repr(client), KEY in repr(client.transport), "word" in repr(client)) == (
            False,
            False,
            False,
        )
        assert "word" not in str(found.value)


def test_a_service_on_this_machine_is_reached_without_the_proxy(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://user:word@127.0.0.1:9")
    with Expunge(tenant.url, tenant.key()) as client:
        assert client.models()
    away = hasty("http://expunge.example", KEY, retries=1)
    with pytest.raises(ConnectionFailed, match=r"through the proxy http://127\.0\.0\.1:9") as found:
        away.models()
    assert "word" not in str(found.value)
    monkeypatch.setenv("HTTP_PROXY", "nonsense://x")
    monkeypatch.setenv("http_proxy", "nonsense://x")
    with pytest.raises(BadSetting, match="the proxy nonsense://x"):
        Expunge("http://expunge.example", KEY)


def test_nobody_at_home_is_said_at_once_and_a_lost_service_is_waited_for(tenant: Tenant):
    pauses = []
    client = Expunge("http://127.0.0.1:1", KEY)
    client.transport.sleep = pauses.append
    with pytest.raises(ConnectionFailed):
        client.models()
    assert pauses == []
    client.transport.reached = True  # it was there before
    with pytest.raises(ConnectionFailed):
        client.models()
    assert len(pauses) == client.transport.retries


def test_an_upload_survives_a_lost_answer(settings: Settings, tmp_path: Path):
    import numpy as np

    settings = settings.model_copy(update={"models": {"away": "somebody/model"}})
    file = tmp_path / "delta.safetensors"
    file.write_bytes(save({"unet.q.lora_A.weight": np.ones((2, 4)), "unet.q.lora_B.weight": np.ones((4, 2))}))
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        with lossy(tenant.url, 5) as line, hasty(line.url, tenant.key()) as client:
            found = client.upload(file, model="away")
            assert isinstance(found, Artifact)
            assert client.evaluate(artifact=found, concepts="church", model="away").kind == "evaluate"
            assert client.artifact(found.id) == found


def test_cancel_and_retry(expunge: Expunge):
    job = expunge.erase("church", method="uce")
    assert expunge.cancel(job).status == "cancelled"
    assert expunge.retry(job).retried_from == job.id
    assert expunge.models()[0].id == "emoji"


def test_server_sent_events_are_parsed_as_the_standard_says():
    lines = [
        ": ping",
        "",
        "id: 1",
        "event: progress",
        "data: a",
        "data: b",
        "",
        "data:c",
        "",
        "retry: 10",
        "",
        "id: 3",
        "data: unfinished",
    ]
    assert list(sse.messages(lines)) == [("progress", "a\nb", "1"), ("message", "c", "1")]


def test_events_wait_for_what_has_not_happened_yet(tenant: Tenant):
    job, started = tenant.erase(), threading.Event()
    seen: list[str] = []

    def follow() -> None:
        with Expunge(tenant.url, tenant.key()) as client:
            for event in client.events(job["id"]):
                seen.append(event.type)
                started.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(30)
    tenant.http().post(f"/jobs/{job['id']}/cancel")
    thread.join()
    assert seen == ["queued", "cancelled"]


def test_the_client_imports_nothing_of_ours_and_nothing_heavy():
    rooms = [f"expunge.{room}" for room in ("api", "core", "embedded", "store", "worker")]
    rooms += ["torch", "numpy", "sqlalchemy", "celery", "fastapi"]
    code = f"import sys, expunge.client.cli; print([m for m in {rooms} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )

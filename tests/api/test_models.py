"""Models that a customer brings, met over HTTP: refused before a job is taken, and told of by GET /models."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from expunge.store import db, workers
from expunge.store.workers import WorkerReport
from expunge.worker.self_test import problem_of
from tests.core.conftest import build_tiny_xl
from tests.support import customer_models
from tests.support.service import Tenant, errors, make_settings, serve


@pytest.fixture
def serving(postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Tenant]]:
    """A service with models of its own, beside the bundled one; made once in a test."""
    open_ = []

    def start(**models: str) -> Tenant:
        settings = make_settings(
            postgres_url, redis_url, tmp_path / "artifacts", models={"emoji": "bundled:emoji", **models}
        )
        running = serve(settings)
        open_.append(running)
        return Tenant(running.__enter__()[0], settings)

    yield start
    for running in open_:
        running.__exit__(None, None, None)


def post(tenant: Tenant, **spec: object) -> httpx.Response:
    return tenant.http().post("/jobs/erase", json={"concepts": ["church"], "method": "uce", **spec})


@pytest.mark.parametrize(
    "what",
    [
        "no scheduler",
        "pickle alone",
        "a checkpoint in one file",
        "the refiner of Stable Diffusion XL",
        "inpainting by its channels",
    ],
)
def test_a_model_that_does_not_load_is_refused_before_a_job_is_taken(
    what: str, serving: Callable[..., Tenant], tmp_path: Path
):
    spoil, _, named = customer_models.SPOILT[what]
    spoil(customer_models.copy(tmp_path / "mine"))
    tenant = serving(mine=str(tmp_path / "mine"))
    for answer in (
        post(tenant, model="mine"),
        tenant.http().post("/jobs/erase?dry_run=true", json={"concepts": ["church"], "model": "mine"}),
    ):
        assert answer.status_code == 422
        assert all(text in errors(answer)["model"] for text in named)
        assert str(tmp_path) not in answer.text
    assert tenant.count() == 0
    assert post(tenant, model="emoji").status_code == 202
    told = {m["id"]: m for m in tenant.http().get("/models").json()["items"]}
    assert (told["emoji"]["usable"], told["emoji"]["architecture"], told["emoji"]["problem"]) == (
        True,
        "Stable Diffusion",
        None,
    )
    assert told["mine"]["usable"] is False
    assert all(text in told["mine"]["problem"] for text in named)
    delta = tenant.http().post(
        "/artifacts?model=mine", content=b"x", headers={"Content-Type": "application/octet-stream"}
    )
    assert "query.model" in errors(delta)


def test_a_file_in_place_of_a_folder_is_refused(serving: Callable[..., Tenant], tmp_path: Path):
    for name, named in (
        ("sd.safetensors", "does not begin with a safetensors header"),
        ("sd.ckpt", "pickle"),
    ):
        (tmp_path / name).write_bytes(b"")
        assert named in errors(post(serving(mine=str(tmp_path / name)), model="mine"))["model"]


def test_a_brought_model_is_taken_and_its_untried_defaults_are_noted(
    serving: Callable[..., Tenant], tmp_path: Path
):
    tenant = serving(mine=str(customer_models.copy(tmp_path / "mine")))
    answer = post(tenant, model="mine")
    assert answer.status_code == 202
    assert any("untested" in note for note in answer.json()["notes"])
    assert not any("untested" in note for note in post(tenant).json()["notes"])


def test_a_method_that_does_not_work_on_the_models_architecture_is_refused_before_a_job_is_taken(
    serving: Callable[..., Tenant], tmp_path: Path
):
    tenant = serving(mine=str(build_tiny_xl(tmp_path / "mine")))
    told = {m["id"]: m for m in tenant.http().get("/models").json()["items"]}["mine"]
    assert told["architecture"] == "Stable Diffusion XL"
    assert {"uce", "age", "prune"} <= set(told["methods"])
    for method in ("text_encoder", "adv_unlearn"):
        assert method not in told["methods"]
        for url in ("/jobs/erase", "/jobs/erase?dry_run=true"):
            body = {"concepts": ["church"], "method": method, "model": "mine"}
            answer = tenant.http().post(url, json=body)
            assert answer.status_code == 422
            assert "works on stable_diffusion, not on stable_diffusion_xl" in errors(answer)["method"]
    assert tenant.count() == 0
    assert post(tenant, model="mine").status_code == 202


@pytest.mark.parametrize(
    "model",
    [
        "CompVis/stable-diffusion-v1-4",
        "/models/mine",
        "bundled:emoji",
        "https://huggingface.co/a/b",
        "EMOJI",
        "é" * 200,
    ],
)
def test_a_model_that_is_not_registered_is_told_which_are_and_how_one_is_added(model: str, tenant: Tenant):
    for url, body in (("/jobs/erase", {}), ("/jobs/hide", {}), ("/concepts/impact", {})):
        answer = tenant.http().post(url, json={"concepts": ["church"], "model": model, **body})
        assert answer.status_code == 422
        told = errors(answer)["model"]
        assert "no model" in told
        assert "emoji" in told
        assert "EXPUNGE_MODELS" in told
        assert "pattern" not in told
        assert ("did you mean 'emoji'" in told) == (model in ("bundled:emoji", "EMOJI"))


def test_where_the_api_cannot_see_a_folder_the_workers_word_counts(
    serving: Callable[..., Tenant], tmp_path: Path
):
    tenant = serving(mine=str(tmp_path / "elsewhere"))

    def shown() -> dict:
        return {m["id"]: m for m in tenant.http().get("/models").json()["items"]}["mine"]

    assert (shown()["usable"], shown()["problem"]) == (None, None)
    assert post(tenant, model="mine").status_code == 202
    blind = WorkerReport(
        uuid.uuid4(),
        "a",
        1,
        "1",
        state="ready",
        models=["emoji"],
        problems={"mine": "unet/config.json is missing: fetch it"},
    )
    able = WorkerReport(uuid.uuid4(), "b", 1, "1", state="ready", models=["emoji", "mine"])
    try:
        with db.transaction(tenant.database) as session:
            workers.record_heartbeat(session, blind, lease=db_hour())
        assert shown()["usable"] is False
        assert "unet/config.json is missing" in errors(post(tenant, model="mine"))["model"]
        with db.transaction(tenant.database) as session:
            workers.record_heartbeat(session, able, lease=db_hour())
        assert shown()["usable"] is True
        assert post(tenant, model="mine").status_code == 202
    finally:
        with db.transaction(tenant.database) as session:
            for standing in (blind, able):
                workers.delete_worker(session, standing.id)


def db_hour() -> object:
    from datetime import timedelta

    return timedelta(hours=1)


def test_what_a_worker_says_of_a_model_has_no_path_of_its_host(tmp_path: Path):
    assert problem_of("bundled:emoji") is None
    for source in (tmp_path / "nowhere", tmp_path):
        told = problem_of(str(source))
        assert told is not None
        assert str(tmp_path) not in told

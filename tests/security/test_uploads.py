"""Hostile uploads by the thousand: nothing but a delta or a picture is stored, nothing is run, and the
refusal says what is wrong.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings as hypothesis_settings

from tests.support.bad_files import (
    TOY,
    broken_delta,
    broken_picture,
    config,
    lora,
    mask,
    packed,
    picture,
    toy_model,
)
from tests.support.service import Tenant, make_settings, serve

DELTAS, PICTURES = 500, 250
REFUSED = {"not_safetensors", "delta_does_not_fit", "delta_not_finite", "not_an_image", "image_unusable"}
steady = hypothesis_settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy(postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    models = {"toy": str(toy_model(tmp_path_factory.mktemp("toy")))}
    settings = make_settings(postgres_url, redis_url, tmp_path_factory.mktemp("artifacts"), models=models)
    with serve(settings) as (url, _):
        yield Tenant(url, settings)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that a pickle makes when somebody reads it."""
    return tmp_path_factory.mktemp("trace") / "run"


def upload(
    client: httpx.Client, content: bytes, media_type: str = "application/octet-stream"
) -> httpx.Response:
    return client.post(
        "/artifacts", params={"model": "toy"}, content=content, headers={"Content-Type": media_type}
    )


def stored(tenant: Tenant) -> list[Path]:
    return [p for p in Path(tenant.settings.artifacts_url.removeprefix("file://")).rglob("*") if p.is_file()]


def refused(answer: httpx.Response) -> None:
    assert answer.status_code == 422, f"{answer.status_code} {answer.text[:300]}"
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["code"] in REFUSED
    assert found["errors"][0]["field"], found
    assert found["errors"][0]["message"], found


def test_what_the_corpus_spoils_is_good_before(toy: Tenant):
    for made in (lora(TOY), lora(TOY, 3, "BF16"), mask(TOY)):
        assert upload(toy.http(), packed(*made)).status_code == 201
    said = {"__metadata__": {"lora_adapter_metadata": json.dumps(config(TOY))}}
    assert upload(toy.http(), packed(said | lora(TOY)[0], lora(TOY)[1])).status_code == 201
    for kind, media_type in (("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")):
        assert upload(toy.http(), picture(kind), media_type).status_code == 201


def test_no_hostile_delta_is_stored_or_run_and_each_is_told_why(toy: Tenant, trace: Path):
    client, before, sent = toy.http(), stored(toy), set[bytes]()

    @hypothesis_settings(steady, max_examples=DELTAS)
    @given(broken_delta(TOY, str(trace)))
    def attack(content: bytes) -> None:
        sent.add(content)
        refused(upload(client, content))

    attack()
    assert len(sent) >= 0.6 * DELTAS
    assert stored(toy) == before
    assert not trace.exists()


def test_no_hostile_picture_is_stored_or_run_and_each_is_told_why(toy: Tenant, trace: Path):
    client, before, sent = toy.http(), stored(toy), set[tuple[str, bytes]]()

    @hypothesis_settings(steady, max_examples=PICTURES)
    @given(broken_picture(str(trace)))
    def attack(made: tuple[str, bytes]) -> None:
        sent.add(made)
        refused(upload(client, made[1], made[0]))

    attack()
    assert len(sent) >= 0.6 * PICTURES
    assert stored(toy) == before
    assert not trace.exists()

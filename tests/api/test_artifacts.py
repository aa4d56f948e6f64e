import base64
import hashlib
import json
import random
import struct
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from expunge.api import vet_delta
from expunge.store import artifacts, db
from tests.support.bad_files import TOY, toy_model
from tests.support.service import Tenant, errors, make_settings, problem, serve

BYTES = random.Random(1).randbytes(3_000_001)


@pytest.fixture
def made(tenant: Tenant, tmp_path: Path) -> str:
    """The id of an artifact that holds BYTES."""
    return str(tenant.finish(tenant.erase()["id"], {"delta é.safetensors": BYTES}, tmp_path)[0].id)


def stored(tenant: Tenant, artifact_id: str) -> Path:
    """The file under an artifact."""
    with db.transaction(tenant.database) as session:
        key = artifacts.get(session, tenant.id, uuid.UUID(artifact_id)).key
    return Path(tenant.settings.artifacts_url.removeprefix("file://")) / key


def test_artifacts_are_listed_with_size_and_digest(tenant: Tenant, tmp_path: Path):
    client, job = tenant.http(), tenant.erase()
    tenant.finish(job["id"], {"b.txt": b"bb", "a.txt": b"a"}, tmp_path)
    items = client.get(f"/jobs/{job['id']}/artifacts").json()["items"]
    assert [(i["name"], i["size"], i["sha256"]) for i in items] == [
        ("a.txt", 1, hashlib.sha256(b"a").hexdigest()),
        ("b.txt", 2, hashlib.sha256(b"bb").hexdigest()),
    ]
    assert client.get(f"/artifacts/{items[0]['id']}").json() == items[0] | {"verdict": None}
    assert [a["id"] for a in client.get(f"/jobs/{job['id']}").json()["artifacts"]] == [i["id"] for i in items]
    assert client.get("/jobs").json()["items"][0]["artifacts"][0]["name"] == "a.txt"


def test_what_the_verdict_withholds_is_listed_and_not_given_out(tenant: Tenant, tmp_path: Path):
    client, job = tenant.http(), tenant.erase()["id"]
    files = {"report.json": b"{}", "delta.safetensors": b"delta", "recovery_key.safetensors": b"key"}
    made = tenant.finish(job, files, tmp_path, {"status": "failed"}, {*files} - {"report.json"})
    ids = {each.name: str(each.id) for each in made}
    listed = {a["name"]: a["withheld"] for a in client.get(f"/jobs/{job}/artifacts").json()["items"]}
    assert listed == {"report.json": False, "delta.safetensors": True, "recovery_key.safetensors": True}
    assert {a["name"]: a["withheld"] for a in client.get(f"/jobs/{job}").json()["artifacts"]} == listed
    assert client.get(f"/artifacts/{ids['report.json']}/content").content == b"{}"
    for ask in (client.get, client.head):
        assert ask(f"/artifacts/{ids['delta.safetensors']}/content").status_code == 409
    refused = client.get(f"/artifacts/{ids['delta.safetensors']}/content", headers={"Range": "bytes=0-0"})
    found = problem(refused, 409, "artifact_withheld")
    assert "'delta.safetensors' of job" in found["detail"]
    assert "on_fail: withhold" in found["detail"]
    problem(client.post(f"/artifacts/{ids['delta.safetensors']}/link", json={}), 409, "artifact_withheld")
    key = tenant.http("keys:read", "artifacts:read")
    problem(key.get(f"/artifacts/{ids['recovery_key.safetensors']}/content"), 409, "artifact_withheld")


@pytest.mark.parametrize("suffix", ["", "/content"])
def test_anothers_artifact_looks_like_none(tenant: Tenant, other: Tenant, made: str, suffix: str):
    found = problem(other.http().get(f"/artifacts/{made}{suffix}"), 404, "not_found")
    unknown = problem(other.http().get(f"/artifacts/{uuid.uuid4()}{suffix}"), 404, "not_found")
    assert found["detail"] == unknown["detail"]


def test_content_comes_whole_with_its_digest(tenant: Tenant, made: str):
    answer = tenant.http().get(f"/artifacts/{made}/content")
    sha256 = hashlib.sha256(BYTES)
    assert answer.content == BYTES
    assert answer.headers["etag"] == f'"{sha256.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    assert answer.headers["content-length"] == str(len(BYTES))
    assert answer.headers["accept-ranges"] == "bytes"
    assert (
        answer.headers["content-disposition"]
        == "attachment; filename=\"delta _.safetensors\"; filename*=UTF-8''delta%20%C3%A9.safetensors"
    )
    head = tenant.http().head(f"/artifacts/{made}/content")
    assert head.content == b""
    assert {k: v for k, v in head.headers.items() if k not in ("date", "x-request-id")} == {
        k: v for k, v in answer.headers.items() if k not in ("date", "x-request-id")
    }


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=2999990-", 2_999_990, len(BYTES)),
        ("bytes=-7", len(BYTES) - 7, len(BYTES)),
        ("bytes=9-99999999", 9, len(BYTES)),
    ],
)
def test_a_range_is_answered_with_those_bytes(tenant: Tenant, made: str, wanted: str, start: int, stop: int):
    answer = tenant.http().get(f"/artifacts/{made}/content", headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(BYTES)}"
    assert answer.content == BYTES[start:stop]


@pytest.mark.parametrize("wanted", ["bytes=3000001-", "bytes=99999999-", "bytes=-0"])
def test_a_range_outside_is_416_with_the_size(tenant: Tenant, made: str, wanted: str):
    answer = tenant.http().get(f"/artifacts/{made}/content", headers={"Range": wanted})
    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(BYTES)}"


@pytest.mark.parametrize("wanted", ["lines=1-2", "bytes=5-2", "bytes=-", "bytes=0-1,5-6", "nonsense"])
def test_a_range_that_cannot_be_read_means_the_whole(tenant: Tenant, made: str, wanted: str):
    answer = tenant.http().get(f"/artifacts/{made}/content", headers={"Range": wanted})
    assert (answer.status_code, len(answer.content)) == (200, len(BYTES))


def test_if_range_guards_a_resumed_download(tenant: Tenant, made: str):
    client, etag = tenant.http(), f'"{hashlib.sha256(BYTES).hexdigest()}"'
    path, wanted = f"/artifacts/{made}/content", {"Range": "bytes=2000000-"}
    assert client.get(path, headers={**wanted, "If-Range": etag}).status_code == 206
    for stale in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = client.get(path, headers={**wanted, "If-Range": stale})
        assert (answer.status_code, len(answer.content)) == (200, len(BYTES))


def test_a_current_copy_is_304(tenant: Tenant, made: str):
    client, etag = tenant.http(), f'"{hashlib.sha256(BYTES).hexdigest()}"'
    for tags in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = client.get(f"/artifacts/{made}/content", headers={"If-None-Match": tags})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert client.get(f"/artifacts/{made}/content", headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-9"}])
def test_one_flipped_bit_on_disk_is_never_served(tenant: Tenant, made: str, headers: dict):
    client, file = tenant.http(), stored(tenant, made)
    assert client.get(f"/artifacts/{made}/content", headers=headers).is_success
    content = bytearray(BYTES)
    content[2_000_000] ^= 1
    file.write_bytes(content)
    problem(client.get(f"/artifacts/{made}/content", headers=headers), 500, "artifact_corrupt")
    file.unlink()
    problem(client.get(f"/artifacts/{made}/content", headers=headers), 500, "artifact_corrupt")
    file.write_bytes(BYTES)
    assert client.get(f"/artifacts/{made}/content", headers=headers).is_success


# Uploads


@pytest.fixture(scope="module")
def toy(postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory):
    """A service that knows a model of two layers, and a tenant of it."""
    folder = toy_model(tmp_path_factory.mktemp("toy"))
    models = {"toy": str(folder), "away": "somebody/some-model"}
    settings = make_settings(
        postgres_url, redis_url, tmp_path_factory.mktemp("artifacts"), models=models, max_upload_bytes=100_000
    )
    with serve(settings) as (url, _):
        yield Tenant(url, settings)


def delta(rank: int = 2, dtype: type = np.float32, **change: np.ndarray) -> dict[str, np.ndarray]:
    """A LoRA that fits the toy; `change` replaces tensors, None removes them."""
    tensors = {}
    for name, (out, inside) in TOY.items():
        tensors[f"{name}.lora_A.weight"] = np.ones((rank, inside), dtype)
        tensors[f"{name}.lora_B.weight"] = np.ones((out, rank), dtype)
    tensors |= change
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def upload(toy: Tenant, content: bytes, model: str = "toy", **headers: str):
    return toy.http().post(
        "/artifacts",
        params={"model": model},
        content=content,
        headers={"Content-Type": "application/octet-stream", **headers},
    )


Q = "unet.down.attn2.to_q"


def test_a_good_delta_is_stored_and_can_be_judged(toy: Tenant):
    content = save(delta())
    answer = upload(toy, content)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert (found["size"], found["sha256"], found["job_id"]) == (
        len(content),
        hashlib.sha256(content).hexdigest(),
        None,
    )
    client = toy.http()
    assert client.get(answer.headers["location"] + "/content").content == content
    spec = {"model": "toy", "artifact_id": found["id"], "concepts": ["church"]}
    assert client.post("/jobs/evaluate", json=spec).status_code == 202
    assert "'toy'" in errors(client.post("/jobs/evaluate", json={**spec, "model": "away"}))["model"]
    assert "concepts" in errors(client.post("/jobs/evaluate", json={**spec, "concepts": []}))


def bf16(value: int) -> bytes:
    """A delta of one layer in bfloat16, which numpy cannot write."""
    header = (
        b'{"%s.lora_A.weight":{"dtype":"BF16","shape":[1,6],"data_offsets":[0,12]},'
        b'"%s.lora_B.weight":{"dtype":"BF16","shape":[8,1],"data_offsets":[12,28]}}'
    )
    header = header.replace(b"%s", Q.encode())
    return struct.pack("<Q", len(header)) + header + struct.pack("<14H", *([0x3F80] * 13), value)


def test_bfloat16_is_looked_at_bit_by_bit(toy: Tenant):
    assert upload(toy, bf16(0x3F80)).status_code == 201
    problem(upload(toy, bf16(0x7FC0)), 422, "delta_not_finite")


PICKLE = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05torch\x94."


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        PICKLE,
        b"PK\x03\x04" + bytes(100),
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        save(delta())[:-1],
        save(delta()) + b"x",
    ],
)
def test_what_is_not_safetensors_is_refused(toy: Tenant, content: bytes):
    assert "pickle files" in problem(upload(toy, content), 422, "not_safetensors")["detail"]


@pytest.mark.parametrize(
    ("tensors", "field"),
    [
        ({}, "body"),
        (
            {"unet.nowhere.lora_A.weight": np.ones((2, 6)), "unet.nowhere.lora_B.weight": np.ones((8, 2))},
            "unet.nowhere",
        ),
        (delta(**{f"{Q}.lora_A.weight": np.ones((2, 7))}), Q),
        (delta(**{f"{Q}.lora_B.weight": np.ones((9, 2))}), Q),
        (delta(**{f"{Q}.lora_B.weight": np.ones((8, 3))}), Q),
        (delta(**{f"{Q}.lora_B.weight": None}), Q),
        (delta(**{f"{Q}.lora_A.weight": np.ones(2)}), Q),
        (delta(rank=0), "unet.down.attn2.to_k"),
        (delta(**{f"{Q}.lora_A.weight": np.ones((2, 6), np.int32)}), f"{Q}.lora_A.weight"),
        (delta(**{"text_model.lora_A.weight": np.ones((2, 6))}), "text_model.lora_A.weight"),
        ({"unet.down.attn2.to_q.weight": np.ones((8, 6))}, "unet.down.attn2.to_q.weight"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_layer(toy: Tenant, tensors: dict, field: str):
    found = problem(upload(toy, save(tensors)), 422, "delta_does_not_fit")
    assert field in [e["field"] for e in found["errors"]]


@pytest.mark.parametrize("prefix", ["text_encoder.text_model.", "text_encoder."])
def test_a_delta_of_the_text_encoder_is_checked_too(toy: Tenant, prefix: str):
    halves = {"lora_A.weight": np.ones((2, 6), np.float32), "lora_B.weight": np.ones((8, 2), np.float32)}
    good = {f"{prefix}encoder.mlp.fc1.{half}": tensor for half, tensor in halves.items()}
    assert upload(toy, save(good)).status_code == 201
    found = problem(
        upload(toy, save({k.replace("fc1", "fc2"): v for k, v in good.items()})), 422, "delta_does_not_fit"
    )
    assert found["errors"][0]["field"] == "text_encoder.encoder.mlp.fc2"


def test_a_sparse_mask_is_checked_by_its_layers(toy: Tenant):
    good = {Q + ".pruned": np.zeros(6, np.uint8)}  # 8 x 6 weights
    assert upload(toy, save(good)).status_code == 201
    assert upload(toy, save(good), model="away").status_code == 201
    bad = [
        ({"unet.down.attn2.to_v.pruned": np.zeros(6, np.uint8)}, "unet.down.attn2.to_v"),
        ({Q + ".pruned": np.zeros(7, np.uint8)}, Q),
        ({Q + ".pruned": np.zeros(6, np.float32)}, Q + ".pruned"),
        (
            good | {"unet.down.attn2.to_k.lora_A.weight": np.ones((2, 4))},
            "unet.down.attn2.to_k.lora_A.weight",
        ),
    ]
    for tensors, field in bad:
        found = problem(upload(toy, save(tensors)), 422, "delta_does_not_fit")
        assert [e["field"] for e in found["errors"]] == [field]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(toy: Tenant, dtype: type, value: float):
    bad = np.ones((2, 6), dtype)
    bad[1, 5] = value
    found = problem(
        upload(toy, save(delta(dtype=dtype, **{f"{Q}.lora_A.weight": bad}))), 422, "delta_not_finite"
    )
    assert found["errors"][0]["field"] == f"{Q}.lora_A.weight"


def test_a_model_that_only_workers_hold_is_checked_for_form(toy: Tenant):
    assert upload(toy, save(delta()), model="away").status_code == 201
    problem(upload(toy, PICKLE, model="away"), 422, "not_safetensors")


def test_uploads_name_a_known_model_a_plain_name_and_a_media_type(toy: Tenant):
    assert "toy" in errors(upload(toy, save(delta()), model="tyo"))["query.model"]
    problem(upload(toy, save(delta()), **{"Content-Type": "application/json"}), 415, "unsupported_media_type")
    for name in ("../x", "a/b", ".hidden", "a\x00b", " "):
        answer = toy.http().post(
            "/artifacts",
            params={"model": "toy", "name": name},
            content=b"",
            headers={"Content-Type": "application/octet-stream"},
        )
        assert "query.name" in errors(answer)


def test_an_upload_over_the_bound_is_refused_declared_or_not(toy: Tenant):
    problem(upload(toy, bytes(100_001)), 413, "payload_too_large")
    problem(upload(toy, iter([bytes(60_000)] * 2)), 413, "payload_too_large")


def test_an_upload_repeated_with_its_key_is_stored_once(toy: Tenant):
    content, key = save(delta()), {"Idempotency-Key": str(uuid.uuid4())}
    first, again = upload(toy, content, **key), upload(toy, content, **key)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    problem(upload(toy, save(delta(rank=3)), **key), 422, "idempotency_mismatch")


def test_deltas_are_looked_at_one_at_a_time_and_their_headers_are_bounded(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
):
    """A header takes many times its size in memory, and uploads come from many at once."""
    inside, most, look = [0], [0], vet_delta.check

    def check(*given: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        try:
            time.sleep(0.02)
            look(*given)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(vet_delta, "check", check)
    names = json.dumps(
        {f"{n:x}": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]} for n in range(2000)}
    ).encode()
    client, sent = tenant.http(), {"headers": {"Content-Type": "application/octet-stream"}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: client.post("/artifacts", content=len(names).to_bytes(8, "little") + names, **sent),
                range(16),
            )
        )
    assert {answer.json()["code"] for answer in answers} == {"delta_does_not_fit"}
    assert most == [1]
    large = vet_delta.MAX_HEADER + 1
    answer = client.post("/artifacts", content=large.to_bytes(8, "little") + b"{}".ljust(large), **sent)
    assert "does not begin with a safetensors header" in problem(answer, 422, "not_safetensors")["detail"]


SETTINGS = {"architecture": "test_resnet", "classes": ["church", "dog"], "input_size": 64}
SETTINGS |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def judge(settings: object = SETTINGS, **tensors: np.ndarray) -> bytes:
    """A judge's file: the service looks at its settings and values, the worker at its network."""
    held = {"fc.bias": np.zeros(2, np.float16)} | tensors
    return save(held, metadata={"expunge_judge": json.dumps(settings)})


def test_an_uploaded_judge_is_named_by_its_id_and_kept_while_a_job_needs_it(toy: Tenant, other: Tenant):
    client, content = toy.http(), judge()
    found = upload(toy, content).json()
    assert (found["size"], found["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    request = {"model": "toy", "concepts": ["church"], "evaluation": {"judge": {"artifact_id": found["id"]}}}
    accepted = client.post("/jobs/erase", json=request)
    assert accepted.status_code == 202, accepted.text
    assert accepted.json()["spec"]["evaluation"]["judge"] == {"artifact_id": found["id"], "texts": None}
    problem(client.delete(f"/artifacts/{found['id']}"), 409, "wrong_state")
    delta_as_judge = {"artifact_id": upload(toy, save(delta())).json()["id"]}
    field = "evaluation.judge.artifact_id"
    for bad, said in (
        (delta_as_judge, "not an uploaded judge"),
        ({"artifact_id": str(uuid.uuid4())}, "no art"),
    ):
        answer = client.post("/jobs/erase", json=request | {"evaluation": {"judge": bad}})
        assert said in errors(answer)[field]
    judged = {"model": "toy", "artifact_id": found["id"], "concepts": ["church"]}
    assert "not a delta" in errors(client.post("/jobs/evaluate", json=judged))["artifact_id"]
    assert field in errors(other.http().post("/jobs/erase", json=request | {"model": "emoji"}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (judge(SETTINGS | {"classes": ["church"]}), "classes"),
        (judge(SETTINGS | {"architecture": "hf-hub:a/b"}), "architecture"),
        (judge({}), "architecture: Field required"),
        (judge(**{"fc.bias": np.full(2, np.nan)}), "NaN"),
        (judge(**{"fc.bias": np.zeros(2, np.uint16)}), "type U16"),
    ],
)
def test_a_judge_that_cannot_be_used_is_refused_at_once(toy: Tenant, content: bytes, said: str):
    assert said in problem(upload(toy, content), 422, "bad_judge")["detail"]

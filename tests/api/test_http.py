"""HTTP as clients may expect it: HEAD, links with a stray key, encodings of bodies."""

import gzip
import json
from pathlib import Path

import httpx
import pytest

from expunge.api.app import create_app
from expunge.store.settings import Settings
from tests.support.service import Tenant, problem

SPEC = {"concepts": ["church"], "method": "uce"}
JSON = {"Content-Type": "application/json"}
READS = [
    path for path, item in create_app(Settings(secret="x" * 40)).openapi()["paths"].items() if "get" in item
]


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", *READS])
def test_head_is_get_without_the_body(tenant: Tenant, path: str, tmp_path: Path):
    client, job = tenant.http(), tenant.erase()["id"]
    (file,) = tenant.finish(
        job, {"recovery_key.safetensors" if "reads" in path else "a.bin": b"0123456789"}, tmp_path
    )
    key = client.get("/keys").json()["items"][0]["id"]
    where = path.format(job_id=job, artifact_id=file.id, key_id=key, webhook_id=file.id)
    get, head = client.get(where), client.head(where)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path not in ("/metrics", "/queue", "/audit") and get.status_code == 200:
        assert head.headers["content-length"] == get.headers["content-length"]


def test_head_of_a_stream_is_answered_and_over(tenant: Tenant):
    answer = tenant.http().head(
        f"/jobs/{tenant.erase()['id']}/events", headers={"Accept": "text/event-stream"}
    )
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (
        200,
        "text/event-stream",
    )


def test_head_of_a_download_knows_no_range(tenant: Tenant, tmp_path: Path):
    (file,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"0123456789"}, tmp_path)
    for wanted in ("bytes=2-3", "bytes=99-"):
        answer = tenant.http().head(f"/artifacts/{file.id}/content", headers={"Range": wanted})
        assert (answer.status_code, answer.headers["content-length"]) == (200, "10")
        assert "content-range" not in answer.headers


def test_what_cannot_be_read_cannot_be_asked_for_by_head(tenant: Tenant):
    answer = tenant.http().head("/jobs/erase")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert tenant.http().request("OPTIONS", "/jobs").headers["allow"] == "GET, HEAD"


class TestLinks:
    @pytest.fixture
    def link(self, tenant: Tenant, tmp_path: Path) -> str:
        (file,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"0123456789"}, tmp_path)
        return tenant.http().post(f"/artifacts/{file.id}/link").json()["url"]

    def test_head_tells_the_size(self, link: str):
        answer = httpx.head(link)
        assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "10", b"")

    @pytest.mark.parametrize("stray", ["Bearer nonsense", "Basic eDp5", "Bearer", "x"])
    def test_a_key_that_is_no_good_does_no_harm_to_it(self, link: str, stray: str):
        for verb in ("GET", "HEAD"):
            assert httpx.request(verb, link, headers={"Authorization": stray}).status_code == 200

    def test_it_opens_its_own_artifact_alone_whatever_is_sent_beside_it(
        self, tenant: Tenant, other: Tenant, link: str, tmp_path: Path
    ):
        query, key = link.partition("?")[2], {"Authorization": f"Bearer {other.key()}"}
        (theirs,) = other.finish(other.erase()["id"], {"a.bin": b"theirs"}, tmp_path)
        assert httpx.get(link, headers=key).content == b"0123456789", "the link wins"
        assert (
            httpx.get(f"{tenant.url}/artifacts/{theirs.id}/content?{query}", headers=key).content == b"theirs"
        ), "the key does"
        problem(httpx.get(f"{tenant.url}/artifacts/{theirs.id}/content?{query}"), 403, "link_expired")
        problem(httpx.get(f"{tenant.url}/jobs?{query}"), 401, "unauthorized")
        problem(httpx.post(link), 401, "unauthorized")


class TestBodies:
    def test_a_mark_before_utf_8_is_no_fault(self, tenant: Tenant):
        content = b"\xef\xbb\xbf" + json.dumps(SPEC).encode()
        answer = tenant.http().post("/jobs/erase", content=content, headers={**JSON, "Idempotency-Key": "a"})
        assert answer.status_code == 202, answer.text
        again = tenant.http().post("/jobs/erase", json=SPEC, headers={"Idempotency-Key": "a"})
        assert again.json()["id"] == answer.json()["id"], "the same request"

    @pytest.mark.parametrize(
        "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1"]
    )
    def test_another_encoding_is_named_with_what_to_do(self, tenant: Tenant, encoding: str):
        content = json.dumps({**SPEC, "labels": {"name": "é"}}, ensure_ascii=False).encode(encoding)
        found = problem(
            tenant.http().post("/jobs/erase", content=content, headers=JSON), 400, "malformed_request"
        )
        assert "encode it as UTF-8" in found["detail"]
        assert "codec" not in found["detail"]

    def test_what_is_no_json_is_told_where(self, tenant: Tenant):
        found = problem(
            tenant.http().post("/jobs/erase", content=b'{"concepts":\n [church]}', headers=JSON),
            400,
            "malformed_request",
        )
        assert "line 2, column 3" in found["detail"]

    @pytest.mark.parametrize(
        ("path", "media_type"),
        [("/jobs/erase", "application/json"), ("/artifacts", "application/octet-stream")],
    )
    @pytest.mark.parametrize("packed", ["gzip", "br", "identity, gzip", "GZIP"])
    def test_a_packed_body_is_refused_by_the_name_of_its_packing(
        self, tenant: Tenant, path: str, media_type: str, packed: str
    ):
        content = gzip.compress(json.dumps(SPEC).encode())
        answer = tenant.http().post(
            path, content=content, headers={"Content-Type": media_type, "Content-Encoding": packed}
        )
        found = problem(answer, 415, "unsupported_media_type")
        assert packed.split()[-1] in found["detail"]
        assert found["errors"][0]["field"] == "header.Content-Encoding"
        assert answer.headers["accept-encoding"] == "identity"

    def test_identity_is_no_packing(self, tenant: Tenant):
        assert (
            tenant.http()
            .post("/jobs/erase?dry_run=true", json=SPEC, headers={"Content-Encoding": "identity"})
            .status_code
            == 200
        )


def test_the_docs_begin_with_what_is_in_them(anonymous: httpx.Client):
    text = anonymous.get("/docs").text
    contents = text[text.index('aria-label="Contents"') : text.index("</nav>")]
    operations = [
        operation["operationId"]
        for item in anonymous.get("/openapi.json").json()["paths"].values()
        for operation in item.values()
    ]
    assert [name for name in operations if f'href="#{name}"' not in contents] == []

"""What a refused request is told: in the service's words, of the operation that was called, with what would
be right.
"""

import base64
import io
import json
import re
import uuid
from typing import Any, get_args

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from PIL import Image
from pydantic_core import core_schema

from expunge.api import validation_errors
from expunge.api.app import create_app
from expunge.core.specs import EraseSpec
from expunge.store.settings import Settings
from tests.support.bad_requests import ID, walk
from tests.support.service import SECRET, Tenant, errors, make_settings, problem, serve

OWN = ("value_error", "assertion_error")  # whose words are those of our own checks
SAID = "the validator's own words"
CONTEXT = {
    **{
        name: 3
        for name in ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "actual_length")
    },
    "expected": "'a' or 'b'",
    "tag": "zz",
    "expected_tags": "'age', 'esd'",
}
ALL = [op for op in walk(create_app(Settings(secret=SECRET))) if op.verb != "HEAD"]


@pytest.mark.parametrize(
    ("source", "loc"), [("body", ("seed",)), ("body", ()), ("query", ("limit",)), ("header", ("prefer",))]
)
def test_no_sort_of_error_is_told_in_the_validator_s_words(source: str, loc: tuple[str, ...]):
    for kind in get_args(core_schema.ErrorType):
        for value in (5, "x", None, [1], {"a": 1}):
            if (
                kind in OWN
                or (kind.startswith("string_too") and not isinstance(value, str))
                or (kind == "extra_forbidden" and not loc)
            ):
                continue
            error = {"type": kind, "loc": (source, *loc), "msg": SAID, "input": value, "ctx": CONTEXT}
            found = validation_errors.validation_problem(
                RequestValidationError([error], body={"seed": value} if loc else value), EraseSpec
            )
            assert SAID not in found.detail
            assert found.errors is not None
            assert found.errors[0].message


@pytest.mark.parametrize(
    ("path", "body", "field", "expected"),
    [
        ("/jobs/erase", {"concepts": "church"}, "concepts", 'must be a list, not "church" write ["church"]'),
        ("/jobs/erase", {"concepts": [5]}, "concepts[0]", "must be a name, or an object with 'name'"),
        ("/jobs/erase", {"concepts": [None]}, "concepts[0]", 'write "church", or {"name": "church"}'),
        ("/jobs/erase", {"concepts": []}, "concepts", "needs at least 1 member, not 0"),
        (
            "/jobs/erase",
            {"concepts": ["x"], "method": ["age"]},
            "method",
            "must be a method's name, or an object",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "method": {"name": "esd", "stesp": 3}},
            "method.stesp",
            "did you mean 'steps'? method 'esd' takes",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "method": {"name": "uce", "steps": 3}},
            "method.steps",
            "parameter 'steps' method 'uce' takes: guide",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "method": {"name": "uce", "erasescale": 3}},
            "method.erasescale",
            "did you mean 'erase_scale'?",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "base_job_id": "0b0d6f2e"},
            "base_job_id",
            "is not an id give a UUID",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "evaluation": {"thresholds": {"esr1": 95}}},
            "evaluation.thresholds.esr1",
            "not a percentage: write 0.95",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "labels": {"a": "b\u0007"}},
            "labels",
            "label 'a' contains a control character",
        ),
        ("/jobs/erase", {"concepts": ["x"], "labels": {"": "b"}}, "labels", "label '' has no key"),
        ("/jobs/erase", {"concepts": ["x"], "evaluation": "no"}, "evaluation", "must be an object"),
        (
            "/jobs/erase",
            {"concepts": ["x"], "method": {"name": "esd", "lora": {"target_modules": "xattn_strickt"}}},
            "method.lora.target_modules",
            "did you mean 'xattn_strict'?",
        ),
        (
            "/jobs/hide",
            {"concepts": ["x"], "recovry": 3},
            "recovry",
            "did you mean 'recovery'? a hide job takes",
        ),
        (
            "/jobs/combine",
            {"job_ids": [ID]},
            "job_ids",
            "a combine job takes: model, labels, queue_timeout_s, run_timeout_s, jobs, fused",
        ),
        ("/jobs/evaluate", {"job_id": ID, "method": "age"}, "method", "an evaluate job takes: model"),
        ("/inspect", {"jobid": ID}, "jobid", "did you mean 'job_id'? an inspect job takes"),
        (
            "/concepts/impact",
            {"concepts": ["church"], "seed": 3},
            "seed",
            "takes: model, concepts, method, top, targets",
        ),
        ("/queue/pause", {"hand": True}, "hand", "a pause takes: hand_over, reason"),
        (f"/artifacts/{ID}/link", {"expires_in_s": 5}, "expires_in_s", "a link takes: lifetime_s"),
        (f"/keys/{ID}/rotate", {"overlap": 5}, "overlap", "a rotation takes: overlap_s"),
        ("/webhooks", {"uri": "https://example.com"}, "uri", "a webhook takes: url"),
    ],
)
def test_a_refusal_is_one_sentence_and_one_remedy_of_the_operation_that_was_called(
    tenant: Tenant, path: str, body: Any, field: str, expected: str
):
    found = errors(tenant.http().post(path, json=body))
    assert field in found
    assert expected in found[field]


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        (
            "/jobs/erase",
            {"concepts": ["x"], "model": ""},
            "model: there is no model '' here: models: emoji; the operator can add one to EXPUNGE_MODELS",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "model": "m" * 300},
            "model: has 300 characters; at most 200 are allowed",
        ),
        ("/jobs/erase", {"concepts": ""}, 'concepts: must be a list, not ""'),
        (
            "/jobs/erase",
            {"concepts": {"name": "church"}},
            'must be a list, not {"name": "church"}: write [{"name": "church"}]',
        ),
        ("/jobs/erase", {"concepts": ["x"], "seed": True}, "seed: must be a number, not true"),
        (
            "/jobs/erase",
            {"concepts": ["x"], "run_timeout_s": "1h"},
            'run_timeout_s: must be a number, not "1h"',
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "seed": "-1.5e3"},
            'seed: must be a number, not "-1.5e3": write it without quotes',
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "seed": None},
            "seed: must be a whole number, not null: omit it to use its default",
        ),
        ("/jobs/erase", {"concepts": None}, "concepts: must be a list, not null"),
        (
            "/jobs/erase",
            {"concepts": ["x"], "method": {"name": None}},
            "method.name: must be a method's name, not null: methods: uce",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "evaluation": False},
            'evaluation: must be an object: write {"enabled": false}',
        ),
        (
            "/jobs/evaluate",
            {"job_id": ID, "evaluation": {"leakage": True}},
            "evaluation.leakage: must be an object: write {} for the defaults",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "method": {"name": "age", "concept_space": ["a", 5]}},
            "method.concept_space[1]: must be a text, not 5",
        ),
        (
            "/jobs/erase",
            {"concepts": ["x"], "inversion": {"steps": 5}},
            "inversion: no concept is given by images, so nothing is learned: omit it",
        ),
        (
            "/jobs/hide",
            {"concepts": ["x"], "inversion": {"steps": 5}},
            "inversion: no concept is given by images, so nothing is learned: omit it",
        ),
        (
            "/jobs/combine",
            {"job_ids": [ID]},
            (
                "job_ids: a combine job has no parameter 'job_ids': did you mean 'jobs'? a combine job takes:"
                " model"
            ),
        ),
        ("/jobs/combine", {"jobs": [ID]}, f"jobs[0]: there is no job {ID}: GET /jobs lists yours"),
        ("/jobs/combine", [], 'body: must be a JSON object: send one, for example {"jobs": ["'),
        ("/jobs/evaluate", "x", 'body: must be a JSON object: send one, for example {"job_id": "'),
        (
            "/keys",
            [],
            'body: must be a JSON object: send one, for example {"name": "ci", "scopes": ["jobs:read"]}',
        ),
        ("/queue/pause", 5, 'body: must be a JSON object: send one, for example {"hand_over": true}'),
        (
            f"/artifacts/{ID}/link",
            [1],
            'body: must be a JSON object: send one, for example {"lifetime_s": 60}',
        ),
        ("/webhooks", {"url": "ftp://example.com"}, "url: is not https: "),
        (
            "/concepts/impact",
            {"concepts": ["nudity"]},
            "is not in the concept graph of 'emoji': erase it with POST /jobs/erase",
        ),
    ],
)
def test_the_detail_alone_says_what_is_wrong_and_what_would_be_right(
    tenant: Tenant, path: str, body: Any, detail: str
):
    said = problem(tenant.http().post(path, json=body), 422, "invalid_request")["detail"]
    assert detail in said


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            rb'{"concepts": ["\ud800"]}',
            r"a string contains the unpaired surrogate \ud800. Write the whole character",
        ),
        (
            b'{"concepts": ["x"], "seed": ' + b"1" * 5000 + b"}",
            "a number in it has 5000 digits; at most 1000 are allowed",
        ),
    ],
)
def test_json_that_cannot_be_read_is_told_in_the_service_s_words(tenant: Tenant, raw: bytes, expected: str):
    answer = tenant.http().post("/jobs/erase", content=raw, headers={"Content-Type": "application/json"})
    assert problem(answer, 400, "malformed_request")["detail"] == f"The body is not usable JSON: {expected}."


def test_a_resolved_spec_is_accepted_again(tenant: Tenant):
    client = tenant.http()
    for kind in ("erase", "hide"):
        spec = client.post(f"/jobs/{kind}?dry_run=true", json={"concepts": ["church"]}).json()["spec"]
        assert client.post(f"/jobs/{kind}?dry_run=true", json=spec).status_code == 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "The body is empty: send a complete PNG, JPEG or WebP file."),
        (b"hello", "The bytes are not PNG, JPEG or WebP: send a complete PNG, JPEG or WebP file."),
        (
            b"\x89PNG\r\n\x1a\n",
            "The PNG image is damaged or ends early: send a complete PNG, JPEG or WebP file.",
        ),
    ],
)
def test_bytes_that_are_no_image_are_told_in_the_service_s_words(tenant: Tenant, content: bytes, said: str):
    answer = tenant.http().post("/artifacts", content=content, headers={"Content-Type": "image/png"})
    assert problem(answer, 422, "not_an_image")["detail"] == said


def test_a_hide_job_lists_only_what_it_takes_and_a_name_of_similar_letters_is_not_suggested(tenant: Tenant):
    client = tenant.http()
    listed = errors(client.post("/jobs/hide", json={"concepts": ["x"], "zz": 1}))["zz"]
    assert "base_job_id" not in listed
    assert "inversion" not in listed
    for path, body, field in (
        ("/jobs/erase", {"concepts": ["x"], "method": {"name": "uce", "steps": 3}}, "method.steps"),
        ("/jobs/erase", {"concepts": ["x"], "job_ids": [ID]}, "job_ids"),
    ):
        assert "did you mean" not in errors(client.post(path, json=body))[field]


def test_bodies_that_are_no_objects_and_addresses_that_lead_nowhere_are_told_so(tenant: Tenant):
    client = tenant.http()
    assert "must be a JSON object" in errors(client.post("/jobs/erase", json=[1, 2]))["body"]
    assert (
        problem(client.delete("/jobs"), 405, "method_not_allowed")["detail"]
        == "/jobs does not support DELETE: use GET, HEAD."
    )
    assert "/docs lists" in problem(client.get("/nowhere"), 404, "not_found")["detail"]
    assert "other tenants" in problem(client.get(f"/jobs/{uuid.uuid4()}"), 404, "not_found")["detail"]
    squeezed = client.post(
        "/jobs/erase",
        content=b"\x1f\x8b",
        headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
    )
    assert "Content-Encoding 'gzip'" in problem(squeezed, 415, "unsupported_media_type")["detail"]


def test_every_route_refuses_a_query_parameter_that_it_does_not_take(tenant: Tenant):
    client = tenant.http()
    assert len(ALL) > 40
    for operation in ALL:
        at = re.sub(r"\{\w+\}", ID, operation.path)
        answer = client.request(operation.verb, f"{at}?stauts=1&dry-run=1")
        found = errors(answer)
        assert "there is no query parameter 'stauts' here" in found["query.stauts"], str(operation)
        assert "there is no query parameter 'dry-run' here" in found["query.dry-run"], str(operation)
    assert tenant.count() == 0


def test_a_query_parameter_that_is_meant_is_suggested_and_one_given_twice_is_refused(tenant: Tenant):
    client = tenant.http()
    assert (
        "did you mean 'dry_run'?"
        in errors(client.post("/jobs/erase?dryrun=true", json={"concepts": ["church"]}))["query.dryrun"]
    )
    assert "did you mean 'status'?" in errors(client.get("/jobs?stauts=failed"))["query.stauts"]
    assert errors(client.get("/jobs?limit=1&limit=2"))["query.limit"].startswith("is given twice")
    assert client.get("/jobs?label=a:b&label=c:d").status_code == 200
    assert tenant.count() == 0


@pytest.mark.parametrize(
    "query",
    [
        "limit=x",
        "limit=0",
        "limit=201",
        "status=lost",
        "kind=erased",
        "cursor=%00",
        "label=a",
        "limit=1e3",
        "limit=",
    ],
)
def test_a_bad_value_in_a_query_is_told_in_the_service_s_words(tenant: Tenant, query: str):
    ((field, text),) = errors(tenant.http().get(f"/jobs?{query}")).items()
    assert field == f"query.{query.split('=')[0]}"
    assert not re.search(r"Input|should|valid (list|string|integer)", text)


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+00:00",
        "2026-01-01T00:00:00+00:00:30",
    ],
)
def test_a_cursor_of_any_moment_is_answered_or_refused(tenant: Tenant, moment: str):
    cursor = base64.urlsafe_b64encode(json.dumps([moment, ID]).encode()).decode().rstrip("=")
    for path in ("/jobs", "/keys", "/audit"):
        assert tenant.http().get(path, params={"cursor": cursor}).status_code in (200, 422)


def notes(tenant: Tenant, **spec: Any) -> list[str]:
    answer = tenant.http().post("/jobs/erase?dry_run=true", json={"method": "uce", **spec})
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["notes"]
    assert found == tenant.erase(**spec)["notes"]
    return found


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("church, dog, teapot", '["church", "dog", "teapot"]'),
        ("church; dog", '["church", "dog"]'),
        ("church and dog", '["church", "dog"]'),
        ("church|dog", '["church", "dog"]'),
        ("church / dog", '["church", "dog"]'),
        ("\u6559\u5802\u3001\u72ac", '["\u6559\u5802", "\u72ac"]'),
    ],
)
def test_a_list_written_as_one_concept_is_noted(tenant: Tenant, name: str, parts: str):
    first, *_ = notes(tenant, concepts=[name])
    assert first.startswith(f"concepts[0]: '{name}' is one concept; did you mean t")
    assert parts in first


@pytest.mark.parametrize(
    "name",
    [
        "(church:1.3)",
        "[church]",
        "church++",
        "<lora:x:1>",
        "{church|dog}",
        "((church))",
        "church:1.3",
        "a photo of (church:1.2)",
        "(church)1.3",
        "__animal__",
        "church --no dog",
    ],
)
def test_the_syntax_of_prompts_is_noted_as_not_read(tenant: Tenant, name: str):
    for at, spec in (
        ("concepts[0]", {"concepts": [name]}),
        ("preserve[0]", {"concepts": ["saw"], "preserve": [name]}),
    ):
        assert any(note.startswith(f"{at}: '{name}' is used as written") for note in notes(tenant, **spec))


@pytest.mark.parametrize(
    "name",
    [
        "nudity",
        "Ferrari",
        "Kilian Eng",
        "in the style of Kilian Eng",
        "\u26ea",
        "\u6559\u5802",
        "Tigger",
        "moto",
        "pare",
    ],
)
def test_nothing_is_suggested_for_a_concept_by_similar_letters(tenant: Tenant, name: str):
    (note,) = notes(tenant, concepts=[name])
    assert "did you mean" not in note
    impact = errors(tenant.http().post("/concepts/impact", json={"concepts": [name]}))["concepts[0]"]
    assert "did you mean" not in impact


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Churches", "church"), ("ice-cream", "ice cream"), ("elephnat", "elephant"), ("teapots", "teapot")],
)
def test_another_form_of_a_word_and_an_obvious_misspelling_are_suggested(
    tenant: Tenant, name: str, meant: str
):
    (note,) = notes(tenant, concepts=[name])
    assert f"did you mean '{meant}'?" in note


def test_a_label_s_key_may_hold_colons_and_all_filters_hold(tenant: Tenant):
    client = tenant.http()
    ids = [
        tenant.erase(labels=labels)["id"]
        for labels in ({"k8s:app": "web"}, {"k8s": "app:web"}, {"a": "1", "b": "x:y"})
    ]

    def found(*labels: str) -> set[str]:
        return {job["id"] for job in client.get("/jobs", params={"label": list(labels)}).json()["items"]}

    assert found("k8s:app:web") == set(ids[:2])
    assert found("a:1", "b:x:y") == {ids[2]}
    assert found("a:1", "a:2") == set()


def test_a_succeeded_job_is_not_retried_and_says_what_to_do(tenant: Tenant, tmp_path):
    client, job = tenant.http(), tenant.erase()
    tenant.finish(job["id"], {}, tmp_path)
    assert (
        "POST its spec again"
        in problem(client.post(f"/jobs/{job['id']}/retry"), 409, "wrong_state")["detail"]
    )
    spec = client.get(f"/jobs/{job['id']}").json()["spec"]
    again = client.post("/jobs/erase", json=spec)
    assert (again.status_code, again.json()["spec"]) == (202, spec)
    assert tenant.count() == 2


FIXED = {"erased_images": 24}  # no more are drawn, so that a job is below `bounded`'s maximum


@pytest.fixture
def bounded(postgres_url: str, redis_url: str, tmp_path):
    with serve(
        make_settings(
            postgres_url, redis_url, tmp_path, max_steps=1000, max_pictures=400, max_run_seconds=600
        )
    ) as (url, app):
        yield Tenant(url, app.state.services.settings)


@pytest.mark.parametrize(
    ("path", "body", "field", "words"),
    [
        (
            "/jobs/erase",
            {"concepts": ["church", "dog"], "method": {"name": "esd", "steps": 600}},
            "method.steps",
            "1,200 optimiser steps",
        ),
        (
            "/jobs/erase",
            {"concepts": ["church"], "method": {"name": "age", "steps": 700}},
            "method.steps",
            "1,050 optimiser steps",
        ),
        (
            "/jobs/erase",
            {"concepts": ["church"], "method": {"name": "adv_unlearn", "steps": 200}},
            "method.attack_steps",
            "1,800 optimiser steps",
        ),
        (
            "/jobs/hide",
            {"concepts": ["church"], "method": {"name": "esd", "steps": 300}, "recovery": {"steps": 9}},
            "recovery.steps",
            "3,000 optimiser",
        ),
        (
            "/jobs/erase",
            {"concepts": ["church"], "evaluation": {"erased_images": 200}},
            "evaluation.erased_images",
            "allows 400 per job (EXPUNGE_MAX_PICTURES)",
        ),
        (
            "/jobs/erase",
            {"concepts": ["church"], "method": {"name": "ca", "pictures": 500}},
            "method.pictures",
            "500 of them by this field",
        ),
        (
            "/jobs/erase",
            {"concepts": ["church"], "run_timeout_s": 601, "evaluation": FIXED},
            "run_timeout_s",
            "allows 600 s per job",
        ),
        ("/inspect", {"job_id": ID, "pictures": 16, "trajectories": 200}, "pictures", "488 pictures"),
    ],
)
def test_a_job_of_more_than_the_operator_allows_is_refused_before_it_is_stored(
    bounded: Tenant, path: str, body: Any, field: str, words: str
):
    client = bounded.http()
    for query in ("", "?dry_run=true"):
        found = errors(client.post(path + query, json=body))
        assert list(found) == [field]
        assert words in found[field]
        assert "lower it" in found[field]
    assert bounded.count() == 0


def test_a_job_that_names_no_run_time_gets_the_operator_s(bounded: Tenant):
    client, job = bounded.http(), bounded.erase(evaluation=FIXED)
    assert job["spec"]["run_timeout_s"] == 600
    assert bounded.erase(evaluation=FIXED, run_timeout_s=60)["spec"]["run_timeout_s"] == 60
    client.post(f"/jobs/{job['id']}/cancel")
    assert client.post(f"/jobs/{job['id']}/retry").status_code == 202


def test_a_dry_run_counts_against_the_same_limit_as_a_write(postgres_url: str, redis_url: str, tmp_path):
    with serve(make_settings(postgres_url, redis_url, tmp_path, rate_limits=True, writes_per_minute=3)) as (
        url,
        app,
    ):
        client = Tenant(url, app.state.services.settings).http()
        answers = [
            client.post("/jobs/erase?dry_run=true", json={"concepts": ["church"]}).status_code
            for _ in range(5)
        ]
    assert answers[:3] == [200] * 3
    assert 429 in answers[3:]


def upload(client: httpx.Client, colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    found: str = client.post(
        "/artifacts", content=file.getvalue(), headers={"Content-Type": "image/png"}
    ).json()["id"]
    return found


def test_images_are_counted_by_what_they_hold(tenant: Tenant):
    client = tenant.http()
    same, other, third = (
        [upload(client, "red") for _ in range(3)],
        upload(client, "blue"),
        upload(client, "green"),
    )
    for images, words in (
        ([same[0]] * 3, "1 different image, too few"),
        (same, "3 uploads contain 1 different image,"),
        ([*same, other], "4 uploads contain 2 different images"),
    ):
        found = errors(client.post("/jobs/erase", json={"concepts": [{"name": "my dog", "images": images}]}))
        assert words in found["concepts[0].images"]
    assert (
        client.post(
            "/jobs/erase?dry_run=true",
            json={"concepts": [{"name": "my dog", "images": [*same, other, third]}]},
        ).status_code
        == 200
    )


def test_what_is_beyond_the_operator_s_bounds_of_now_is_not_retried(bounded: Tenant):
    method = {"name": "esd", "steps": 900}
    client, job = bounded.http(), bounded.erase(method=method, evaluation=FIXED)
    client.post(f"/jobs/{job['id']}/cancel")
    with serve(bounded.settings.model_copy(update={"max_steps": 100})) as (url, _):
        answer = httpx.post(f"{url}/jobs/{job['id']}/retry", headers=client.headers)
    assert "this service allows 100 per job" in problem(answer, 409, "wrong_state")["detail"]
    assert bounded.count() == 1

"""What never reaches the log."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from expunge.core.specs import SPECS
from expunge.store import logs
from expunge.store.settings import Settings

KEY = "ex_live_" + "a1B2" * 10
SETTINGS = Settings(
    database_url="postgresql://expunge:pass-of-the-database@host/db",
    redis_url="redis://:pass-of-redis@host:6379/0",
    secret="s" * 40,
)
IMAGE = "0b0d6f2e-8a4c-4a69-9a57-3f1f5f6a1c22"
SPEC = {
    "model": "emoji",
    "concepts": [
        {
            "name": "Kilian Eng",
            "synonyms": ["l'été"],
            "target": "cat",
            "images": [IMAGE],
            "initializer": "grebe",
            "attributes": ['a "b"'],
        }
    ],
    "method": {"name": "age", "preserve": ["teapot"], "concept_space": ["violin"]},
    "labels": {"ticket": "DMCA-1042"},
}


@pytest.fixture
def redact():
    logs.hide(SPEC)
    yield logs.Redact(SETTINGS).text
    logs.hide({})


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (f"sent {KEY}", KEY),
        (f"Authorization: Bearer {KEY}", KEY),
        ("Authorization: bearer abc.def-1", "abc.def"),
        ("https://s3/b/k?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=0af3&x=1", "0af3"),
        ("https://s3/b/k?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=0af3", "AKIA"),
        ("/artifacts/1/content?by=2&expires=3&sig=deadbeef", "deadbeef"),
        ("connecting to postgresql://u:other-password@h/db", "other-password"),
        ("password=pass-of-the-database", "pass-of-the-database"),
        ("AUTH pass-of-redis", "pass-of-redis"),
        (f"secret {'s' * 40}", "ssss"),
        ("webhook whsec_MfKQ9r8GKYqrTwjU", "MfKQ"),
        ("the first word is grebe", "grebe"),
        ("no vocabulary knows 'kilian eng'", "kilian"),
        ("embedding-kilian-eng.safetensors", "kilian"),
        ("the word <Kilian_Eng>", "Kilian"),
        ("l'été", "été"),
        (repr("l'été\n"), "été"),
        (ascii("l'été"), "xe9"),
        (json.dumps(['a "b"']), "b"),
        ("a cat, a CAT", "cat"),
        ("held teapot and violin for DMCA-1042", "teapot"),
        ("held teapot and violin for DMCA-1042", "violin"),
        ("held teapot and violin for DMCA-1042", "1042"),
    ],
)
def test_it_is_gone(redact, text, gone):
    assert gone.lower() not in redact(text).lower()


@pytest.mark.parametrize(
    "text",
    [
        "category",
        "the concatenation",
        "emoji by age",
        "image 0b0d6f2e-8a4c-4a69-9a57-3f1f5f6a1c22",
        "concepts[0].target",
        "job 4711 failed",
    ],
)
def test_it_stays(redact, text):
    assert redact(text) == text


WORD = "zorblax"


def filled(schema: dict, definitions: dict, path: str) -> Iterator[tuple[str, Any]]:
    """(path, a value that holds WORD there and nothing else) for every place in a schema where any text will
    do.
    """
    if "$ref" in schema:
        yield from filled(definitions[schema["$ref"].rpartition("/")[2]], definitions, path)
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from filled(choice, definitions, path)
    if schema.get("type") == "string" and not schema.keys() & {
        "enum",
        "const",
        "pattern",
        "contentEncoding",
        "format",
    }:
        yield path, WORD
    for name, inner in schema.get("properties", {}).items():
        yield from ((at, {name: value}) for at, value in filled(inner, definitions, f"{path}.{name}"))
    if "items" in schema:
        yield from ((at, [value]) for at, value in filled(schema["items"], definitions, f"{path}[]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from (
            (at, {"ticket": value})
            for at, value in filled(schema["additionalProperties"], definitions, f"{path}.*")
        )


PLACES = dict(
    place
    for kind, spec in SPECS.items()
    for place in filled(spec.model_json_schema(), spec.model_json_schema().get("$defs", {}), kind)
)


def test_the_places_of_words_are_found():
    found = {place.rpartition(".")[2].rstrip("[]") for place in PLACES}
    assert found >= {
        "name",
        "synonyms",
        "target",
        "attributes",
        "initializer",
        "guide",
        "preserve",
        "concepts",
        "*",
    }


@pytest.mark.parametrize("place", PLACES)
def test_a_clients_word_is_gone_wherever_a_spec_takes_one(place):
    logs.hide(PLACES[place])
    try:
        assert WORD not in logs.Redact(SETTINGS).text(f"there is no {WORD} in the vocabulary")
    finally:
        logs.hide({})


def test_one_concept_has_one_hash_whatever_its_case_and_another_server_s_secret_gives_another():
    assert logs.fingerprint(SETTINGS, "Church") == logs.fingerprint(SETTINGS, "church") != "church"
    other = SETTINGS.model_copy(update={"secret": type(SETTINGS.secret)("t" * 40)})
    assert logs.fingerprint(other, "church") != logs.fingerprint(SETTINGS, "church")


def test_values_of_every_shape_are_cleaned_and_every_library_speaks_json(capfd):
    logs.hide(SPEC)
    logs.configure(SETTINGS, "test")
    try:
        structlog.get_logger("x").info(
            "facts", deep={"a": [KEY, ("teapot", 3)]}, other=ValueError("no teapot"), n=1.5, nothing=None
        )
        try:
            raise LookupError("teapot")
        except LookupError:
            logging.getLogger("some.library").exception("while %s", "drawing a teapot")
        logging.getLogger("uvicorn.access").warning("GET /x?sig=abc")
    finally:
        logs.hide({})
    first, second = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert first["deep"]["a"][1][1] == 3
    assert (first["n"], first["nothing"], first["service"]) == (1.5, None, "test")
    assert second["logger"] == "some.library"
    assert "LookupError" in second["exception"]
    assert "teapot" not in json.dumps([first, second])
    assert KEY not in json.dumps(first)


def test_where_the_operator_wants_the_words_only_secrets_are_masked():
    logs.hide(SPEC)
    text = logs.Redact(SETTINGS.model_copy(update={"log_concepts": True})).text(f"teapot {KEY}")
    logs.hide({})
    assert text.startswith("teapot ")
    assert KEY not in text

"""Bad requests by the thousand, for every operation that the app serves.

Each is bad by construction and says which part of it is at fault.
"""

import json
import re
import string
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import FastAPI
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from expunge.api import examples
from expunge.api.middleware.authentication import PUBLIC
from expunge.core.specs import METHODS, EraseSpec, EvaluateSpec, HideSpec, ImpactSpec, InspectSpec

Headers = tuple[tuple[str, bytes], ...]
JSON = (("Content-Type", b"application/json"),)


@dataclass(frozen=True)
class Bad:
    """One bad request, and the field that its refusal must name."""

    verb: str
    target: str
    field: str
    headers: Headers = ()
    body: bytes | None = None


@dataclass(frozen=True)
class Operation:
    """A method of a path, as the app serves it and, where it is in there, as the document describes it."""

    verb: str
    path: str
    described: dict[str, Any] = field(hash=False, compare=False)
    others: frozenset[str] = field(hash=False, compare=False)

    def __str__(self) -> str:
        return f"{self.verb} {self.path}"

    def at(self, ids: dict[str, str], query: str = "") -> str:
        return re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], self.path) + (f"?{query}" if query else "")

    @property
    def unsafe(self) -> bool:
        return self.verb not in ("GET", "HEAD")

    @property
    def open(self) -> bool:
        return self.path in PUBLIC or self.path == "/schemas/{name}"  # each of which is public

    def parameters(self, place: str) -> list[str]:
        return [p["name"] for p in self.described.get("parameters", ()) if p["in"] == place]

    @property
    def schema(self) -> str | None:
        """The name of its JSON body's schema."""
        content = self.described.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            return None
        schema = content["schema"]
        return str(schema.get("$ref") or schema["anyOf"][0]["$ref"]).rpartition("/")[2]


def leaves(routes: Any) -> Iterator[tuple[str, set[str]]]:
    """(path, methods) of every route, those of routers and mounted apps too."""
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None) or getattr(
            route, "routes", None
        )
        if inner:
            yield from leaves(inner)
        else:
            yield re.sub(r":\w+\}", "}", route.path), set(getattr(route, "methods", None) or {"GET"})


def walk(app: FastAPI) -> list[Operation]:
    """Every operation the app serves."""
    served: dict[str, set[str]] = {}
    for path, methods in leaves(app.routes):
        served.setdefault(path, set()).update(methods)
    every = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
    return [
        Operation(
            verb,
            path,
            app.openapi()["paths"].get(path, {}).get(verb.lower(), {}),
            every - methods - ({"GET"} & methods),
        )
        for path, methods in sorted(served.items())
        for verb in sorted(methods)
    ]


# Words

JUNK = st.one_of(
    st.sampled_from(
        [
            "..",
            "../..",
            "%2e%2e%2f",
            "..\\",
            "\0",
            "null",
            "-1",
            "x" * 300,
            "{}",
            "é",
            "‮",
            "\U0001f600",
            "' or 1=1 --",
            "<script>",
            "*",
        ]
    ),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
)
WORD = st.text(string.ascii_lowercase, min_size=3, max_size=12).map(lambda word: "zz" + word)
NO_NUMBER = st.one_of(
    WORD, st.sampled_from(["", " ", "1e3", "0x10", "1.5", "٣", "1_0x", "NaN", "--1", "[]", "true"])
)
HUGE = st.integers(min_value=2**53 + 1, max_value=10**30).map(str)
NEGATIVE = st.integers(max_value=-1, min_value=-(10**20)).map(str)
CONTROL = st.sampled_from(["\0", "\x07", "\x1b[31m", "a\x00b", "‮church", "⁦x", "line\nbreak"])


def junk_cursor() -> SearchStrategy[str]:
    import base64

    def encoded(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    values = st.one_of(
        st.sampled_from(
            [
                [],
                {},
                1,
                None,
                "x",
                [1, 2],
                ["2020-01-01", str(uuid.UUID(int=0))],
                ["2020-01-01T00:00:00+00:00", "x"],
                [[], []],
            ]
        ),
        st.lists(st.text(max_size=9), max_size=3),
    )
    return st.one_of(
        WORD,
        values.map(encoded),
        st.just("A" * 301),
        st.just("%00"),
        st.just("é"),
        st.text(min_size=1, max_size=20),
    )


QUERIES: dict[str, SearchStrategy[str]] = {
    "limit": st.one_of(NO_NUMBER, HUGE, NEGATIVE, st.just("0"), st.integers(501, 10_000).map(str)),
    "after": st.one_of(NO_NUMBER, HUGE, NEGATIVE),
    "cursor": junk_cursor(),
    "kind": st.one_of(WORD, st.sampled_from(["", "ERASE", "erase "])),
    "status": st.one_of(WORD, st.sampled_from(["", "Queued", "queued\0"])),
    "action": WORD,
    "target": st.one_of(WORD, st.sampled_from(["", "0" * 31, "../x", "\0"])),
    "label": st.one_of(WORD, CONTROL.map(lambda text: f"team:{text}"), st.sampled_from(["", ":", ":x"])),
    "jobs": st.one_of(WORD, st.sampled_from(["", ",", "../x", "0" * 36, str(uuid.uuid4())])),
    "dry_run": st.one_of(WORD, st.sampled_from(["", "2", "null", "truefalse"])),
    "media_type": st.one_of(
        WORD,
        st.sampled_from(["", "image", "image/", "/png", "image/png/x", "image/p ng", "image/png\0", "*/*"]),
    ),
    "model": st.one_of(WORD, JUNK, st.just("x" * 101)),
    "name": st.one_of(
        st.sampled_from(
            [
                "../x",
                "a/b",
                "..",
                ".hidden",
                "a\\b",
                " ",
                "\0",
                "x" * 201,
                "/etc/passwd",
                "nul\0.png",
                "‮gnp.x",
                "a\nb",
            ]
        ),
        WORD.map(lambda word: f"../{word}"),
        WORD.map(lambda word: f"{word}/{word}"),
        WORD.map(lambda word: f".{word}"),
        WORD.map(lambda word: f"{word}\x7f"),
    ),
}
"""What each query parameter cannot be, whichever operation has it."""

LATIN = st.binary(min_size=1, max_size=30).map(lambda raw: bytes(b for b in raw if b >= 0x80)).filter(bool)
HEADERS: dict[str, SearchStrategy[tuple[Headers, str]]] = {
    "Idempotency-Key": st.one_of(
        LATIN, st.just(b""), st.just(b"a\tb"), st.integers(256, 900).map(lambda n: b"k" * n)
    ).map(lambda value: ((("Idempotency-Key", value),), "header.Idempotency-Key")),
    "Last-Event-ID": st.one_of(
        WORD.map(str.encode), LATIN, st.sampled_from([b"-1", b"1.5", b"9" * 19, b"0x1", b"1 2", b"*"])
    ).map(
        lambda value: ((("Last-Event-ID", value), ("Accept", b"text/event-stream")), "header.Last-Event-ID")
    ),
    "Prefer": st.nothing(),  # a preference that cannot be read is no preference (RFC 7240, section 2)
}
"""What each header cannot be."""

ACCEPT = st.one_of(
    st.builds(lambda a, b: f"{a}/{b}".encode(), WORD, WORD),
    st.builds(lambda word, q: f"application/{word};q=0.{q}".encode(), WORD, st.integers(1, 9)),
    st.sampled_from(
        [
            b"text/html",
            b"*/*;q=0",
            b"application/*;q=0.000",
            b"image/*, text/plain",
            b"application/jso",
            b"/",
            b";",
            b"json",
            b"application/problem+json",
        ]
    ),
)
TOKEN = st.one_of(
    WORD.map(lambda word: f"Bearer {word}".encode()),
    st.text(string.ascii_letters + string.digits, min_size=43, max_size=43).map(
        lambda word: f"Bearer ex_live_{word}".encode()
    ),
    WORD.map(lambda word: f"Basic {word}".encode()),
    LATIN.map(lambda raw: b"Bearer " + raw),
    st.sampled_from([b"Bearer", b"Bearer null", b"Bearer a b", b"Digest x", b"bearer", b"x" * 5000]),
)


# Bodies

ID = "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"
WHOLE: dict[str, Any] = {"name": "church", "synonyms": ["kirk"], "target": "castle"}
SPREAD: dict[str, Any] = {"name": "dog", "attributes": ["noto", "twemoji"], "shares": [0.4, 0.6]}
SHOWN: dict[str, Any] = {
    "name": "my dog",
    "images": [ID[:-1] + n for n in "123"],
    "masks": [ID] * 3,
    "initializer": "dog",
}


def resolved(spec: Any, value: dict[str, Any]) -> dict[str, Any]:
    """A good body with every default in it, as JSON has it."""
    found: dict[str, Any] = spec.model_validate(value).model_dump(mode="json")
    return found


def shown(bodies: dict[str, Any]) -> list[dict[str, Any]]:
    return [example["value"] for example in bodies.values()]


def erasures(spec: Any, methods: list[str], **more: Any) -> list[dict[str, Any]]:
    return [
        resolved(
            spec,
            {
                "concepts": [WHOLE, "saw"],
                "preserve": ["mosque"],
                "method": name,
                "labels": {"a": "b"},
                **more,
            },
        )
        for name in methods
    ]


GOOD: dict[str, list[dict[str, Any]]] = {
    "EraseSpec": [
        *shown(examples.ERASE),
        *erasures(EraseSpec, list(METHODS)),
        resolved(EraseSpec, {"concepts": [SPREAD]}),
        resolved(EraseSpec, {"concepts": [SHOWN]}),
        *(
            {"concepts": ["church"], "method": {"name": name, "guide": "castle"}}
            for name in ("uce", "rece", "time")
        ),
        {"concepts": ["church"], "method": {"name": "esd", "lora": {"target_modules": ["to_k"]}}},
    ],
    "HideSpec": [
        *shown(examples.HIDE),
        *erasures(HideSpec, ["naive", "esd", "all_but_one", "ap", "age"], recovery={"length": 3}),
    ],
    "EvaluateSpec": [
        *shown(examples.EVALUATE),
        resolved(EvaluateSpec, {"artifact_id": ID, "concepts": ["church"]}),
    ],
    "CombineSpec": shown(examples.COMBINE),
    "InspectSpec": [
        *shown(examples.INSPECT),
        resolved(InspectSpec, {"job_id": ID, "concept": WHOLE, "concept_space": ["church", "castle"]}),
    ],
    "ImpactSpec": [
        *shown(examples.IMPACT),
        *(resolved(ImpactSpec, {"concepts": ["church"], "method": name}) for name in METHODS),
    ],
    "WebhookRequest": [
        {"url": "https://hooks.example.com/x", "events": ["job.failed"], "description": "x", "enabled": True}
    ],
    "WebhookPatch": [
        {"url": "https://hooks.example.com/x", "events": ["job.failed"], "description": "x", "enabled": False}
    ],
    "KeyRequest": [{"name": "x", "scopes": ["jobs:read"], "expires_in_s": 60}],
    "KeyRotation": [{"overlap_s": 0}],
    "LinkSpec": [{"lifetime_s": 60}],
    "PauseRequest": [{"hand_over": True, "reason": "x"}],
}
"""Good bodies of every schema; each bad one has one of their places spoiled."""

NEEDED = {
    "EraseSpec": ["concepts"],
    "HideSpec": ["concepts"],
    "CombineSpec": ["jobs"],
    "ImpactSpec": ["concepts"],
    "WebhookRequest": ["url"],
    "KeyRequest": ["name", "scopes"],
}

URLS = st.sampled_from(
    [
        "http://hooks.example.com/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://100.64.0.1/",
        "https://10.0.0.1/",
        "https://192.168.0.1/",
        "https://172.16.0.1/",
        "https://0.0.0.0/",
        "https://0/",
        "https://localhost/",
        "https://localhost./",
        "https://a.localhost/",
        "https://[fe80::1]/",
        "https://[fc00::1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://user:pass@example.com/",
        "https://user@example.com/",
        "https://example.com:22/",
        "https://example.com:80/",
        "https://example.com:99999/",
        "https://example.com:-1/",
        "https://example.com:x/",
        "https://example.com/#x",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "example.com",
        "https://",
        "https:///x",
        "https://exa mple.com/",
        "https://example.com\\@127.0.0.1/",
        "https://ex\u00e4mple.com/",
        "https://example.com/\u0000",
        "https://example.com/\r\nX: y",
        "https://%31%32%37.0.0.1/",
        "https://1.1.1.1.1/",
        "https://256.1.1.1/",
        "https://[::1%25eth0]/",
        "https://[",
        "javascript:alert(1)",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://-.example.com/",
        "https://" + "a" * 64 + ".com/",
        "https://example.com/" + "x" * 2048,
    ]
)
MODELS = st.sampled_from(
    [
        "..",
        "../emoji",
        "/etc/passwd",
        "file:///etc",
        "C:\\x",
        "emoji/../x",
        "https://example.com/m",
        "a\\b",
        "%2e%2e",
        "",
        "emoji\0",
        "x" * 101,
        ".x",
        "hub:x/y",
        "runwayml/sd",
    ]
)


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every place of a document but its root, and what stands there."""
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in members:
        yield (*at, key), inner
        yield from places(inner, (*at, key))


RAW_INFINITY = "1e999"  # valid JSON whose number no float holds
MARK = "zz-infinity"


UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def near_ids(value: str) -> list[str]:
    """What a careless pattern takes for an id: the same length, the same letters."""
    return [
        "-" * 36,
        value.replace("-", "0"),
        value[:-1] + "g",
        value[:-1],
        f"{value}0",
        value[1:] + value[0],
        f"{{{value}}}",
    ]


def ways_wrong(at: tuple[str | int, ...], value: Any) -> list[Any]:
    """What may not stand where `value` does, in any spec of ours."""
    odd: list[Any] = [{"zz": 1}, [[1]]]
    concept = "concept" in at[-1:] or (len(at) == 2 and at[0] == "concepts")
    match value:
        case None:
            return [
                *(near_ids(ID) if str(at[-1]).endswith("_id") else []),
                {"zz": 1},
                [{"zz": 1}],
                "\0",
                "\u202eevil",
                "x" * 3000,
                ["x"] * 4200,
            ]
        case bool():
            return [*odd, "true", 1, 0, "zz", 0.5]
        case int():
            return [*odd, "5", True, "zz", 1e308, -1e308, MARK, 2**63, 10**40, 0.5]
        case float():
            return [*odd, "0.5", False, "zz", 1e308, -1e308, MARK, 10**40]
        case str():
            return [
                *(near_ids(value) if UUID.fullmatch(value) else []),
                5,
                True,
                {"zz": 1},
                0.5,
                "\0",
                "\u202eevil",
                "a\x1bb",
                "x" * 3000,
                ["x"] * 4200,
                *([] if at[-1] == "concept_space" else [[1]]),
            ]
        case list():
            return [5, True, {"zz": 1}, "\0", ["x"] * 4200, [None], [{"zz": 1}]]
        case dict():
            return [
                5,
                True,
                [],
                *([] if concept or at[-1] == "labels" else ["zz"]),
                {**value, "zz": {"zz": 1}},
            ]
    raise TypeError(type(value))


def wrong(at: tuple[str | int, ...], value: Any) -> SearchStrategy[Any]:
    """One of those, or another of its sort."""
    words = (
        {"url": URLS, "model": MODELS}.get(str(at[-1]), st.nothing())
        if isinstance(value, str)
        else st.nothing()
    )
    numbers = (
        st.integers(2**63, 10**40)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else st.nothing()
    )
    return st.one_of(st.sampled_from(ways_wrong(at, value)), words, numbers)


def dotted(at: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at).removeprefix(".")


def replaced(value: Any, at: tuple[str | int, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(value[at[0]], at[1:], new)
    return copy


@st.composite
def spoiled(draw: Any, schema: str) -> tuple[bytes, str]:
    """(body, field at fault): a good body with one place spoiled, a needed field taken out, an unknown one
    put in, or no object at all.
    """
    good = draw(st.sampled_from(GOOD[schema]))
    how = draw(st.integers(0, 11))
    if how == 0:
        word = draw(WORD)
        return json.dumps({**good, word: 1}).encode(), word
    if how == 1:
        return json.dumps(draw(st.sampled_from([[], 3, "church", True, [good]]))).encode(), "body"
    if how == 2 and schema in NEEDED:
        gone = draw(st.sampled_from(NEEDED[schema]))
        return json.dumps({k: v for k, v in good.items() if k != gone}).encode(), gone
    at, value = draw(
        st.sampled_from([(at, value) for at, value in places(good) if at[0] != "labels" or len(at) == 1])
    )
    text = json.dumps(replaced(good, at, draw(wrong(at, value))))
    return text.replace(f'"{MARK}"', RAW_INFINITY).encode(), dotted(at)


BROKEN = st.one_of(
    st.sampled_from(
        [
            b"{",
            b"}",
            b"[1,]",
            b'{"a":1,"a":2}',
            b'{"concepts":["church"],"concepts":["saw"]}',
            b'{"a":NaN}',
            b'{"a":Infinity}',
            b'{"a":-Infinity}',
            b"[" * 33 + b"]" * 33,
            b'{"a":' * 40 + b"1" + b"}" * 40,
            b'{"a":"\\ud800"}',
            b"\xff\xfe{}",
            b"\xef\xbb\xbf{}",
            b"'x'",
            b'{"a":1}x',
            b"nan",
            b"{'a':1}",
            b'{"a":"\x00"}',
            b"0x10",
            b"01",
            b"\x1f\x8b\x08",
            b'{"a":' + b"9" * 5000 + b"}",
            b"[" * 30_000,
            b"{}{}",
            b"\x80\x04\x95.",
            b"<xml/>",
            b"a=1&b=2",
            b'{"a":1//c\n}',
            b'"' + b"x" * 100,
        ]
    ),
    st.binary(min_size=1, max_size=60).map(lambda raw: b"\xff" + raw),
    st.text(string.ascii_letters, min_size=6, max_size=40).map(lambda text: f"<{text}>".encode()),
    st.integers(1, 60).map(lambda n: json.dumps(GOOD["EraseSpec"][1]).encode()[: n * 3 + 1]),
)
MEDIA = st.one_of(
    st.builds(lambda a, b: f"{a}/{b}".encode(), WORD, WORD),
    st.sampled_from(
        [
            b"",
            b"text/plain",
            b"application/x-www-form-urlencoded",
            b"multipart/form-data; boundary=x",
            b"application/jsonp",
            b"application/json+x",
            b"json",
            b"text/html",
            b"\xff",
        ]
    ),
)


# All of it, for one operation


def near(named: str, at_fault: str) -> bool:
    """The same place, or one that holds it or lies in it; a path that leads elsewhere is no method of that
    either.
    """
    if at_fault == "path":
        return named.split(".")[0] in ("path", "method")
    return (
        named == at_fault
        or named.startswith((f"{at_fault}.", f"{at_fault}["))
        or at_fault.startswith((f"{named}.", f"{named}["))
    )


def attacks(operation: Operation, ids: dict[str, str]) -> dict[str, SearchStrategy[Bad]]:
    """Strategy by what is attacked.

    KeyError where the operation takes what no strategy here knows: add one.
    """
    verb, headers = operation.verb, JSON if operation.schema else ()
    body = json.dumps(GOOD[operation.schema][0]).encode() if operation.schema else None
    found: dict[str, SearchStrategy[Bad]] = {}

    def with_(part: str, strategy: SearchStrategy[Bad]) -> None:
        found[part] = strategy

    if operation.others:
        with_(
            "method",
            st.builds(
                lambda other, word, raw: Bad(
                    other,
                    operation.at(ids, urlencode({word: word})),
                    "method",
                    JSON if raw else (),
                    b"{}" if raw else None,
                ),
                st.sampled_from(sorted(operation.others)),
                WORD,
                st.booleans(),
            ),
        )
    if "{" in operation.path:
        with_(
            "path",
            st.builds(
                lambda which, junk: Bad(
                    verb,
                    operation.at({**ids, which: quote(junk, safe="").replace(".", "%2E")}),
                    "path",
                    headers,
                    body,
                ),
                st.sampled_from(re.findall(r"\{(\w+)\}", operation.path)),
                st.one_of(JUNK, st.uuids().map(str)),
            ),
        )
    if not operation.open and operation.path != "/metrics":  # which take the operator's token, or none
        with_(
            "token",
            TOKEN.map(
                lambda token: Bad(
                    verb,
                    operation.at(ids),
                    "header.Authorization",
                    (("Authorization", token), *headers),
                    body,
                )
            ),
        )
    if not operation.open and operation.path not in ("/metrics", "/artifacts", "/compare"):
        with_(
            "accept",
            ACCEPT.map(
                lambda accept: Bad(
                    verb, operation.at(ids), "header.Accept", (("Accept", accept), *headers), body
                )
            ),
        )
    for name in operation.parameters("query"):
        with_(
            f"query {name}",
            QUERIES[name].map(
                lambda text, name=name: Bad(
                    verb,
                    operation.at(ids, urlencode({name: text}, errors="surrogatepass")),
                    f"query.{name}",
                    headers,
                    body,
                )
            ),
        )
    for name in operation.parameters("header"):
        with_(
            f"header {name}",
            HEADERS[name].map(
                lambda given: Bad(verb, operation.at(ids), given[1], (*given[0], *headers), body)
            ),
        )
    if operation.unsafe and operation.path != "/artifacts":
        with_(
            "media type",
            st.builds(
                lambda media, raw: Bad(
                    verb, operation.at(ids), "header.Content-Type", (("Content-Type", media),), raw
                ),
                MEDIA,
                BROKEN,
            ),
        )
        with_("syntax", BROKEN.map(lambda raw: Bad(verb, operation.at(ids), "body", JSON, raw)))
        with_(
            "size",
            st.integers(64 * 1024 + 1, 80_000).map(
                lambda n: Bad(verb, operation.at(ids), "body", JSON, b" " * n)
            ),
        )
    if operation.schema:
        with_(
            "fields",
            spoiled(operation.schema).map(lambda made: Bad(verb, operation.at(ids), made[1], JSON, made[0])),
        )
    return found

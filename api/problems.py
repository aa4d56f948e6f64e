"""Every error leaves as an RFC 9457 problem; this is the catalogue."""

from typing import Any, NamedTuple

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from expunge.core.delta_format.errors import REMEDIES

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """One sort of problem: its HTTP status, stable code and title, and what a client can do."""

    status: int
    code: str
    title: str
    remedy: str


KINDS = {
    kind.code: kind
    for kind in (
        Kind(
            400,
            "malformed_request",
            "The request cannot be read",
            "Send well-formed JSON: no duplicate keys, no NaN or Infinity, no deep nesting.",
        ),
        Kind(400, "bad_header", "A request header cannot be used", "Correct the header the detail names."),
        Kind(
            401,
            "unauthorized",
            "A valid API key is needed",
            "Send 'Authorization: Bearer <key>' with a key that is neither expired nor revoked.",
        ),
        Kind(403, "forbidden", "The API key lacks a scope", "Use a key that has the scope the detail names."),
        Kind(
            403,
            "link_expired",
            "The link has expired, or is not what the service gave out",
            "Ask for a new one: POST /artifacts/{id}/link.",
        ),
        Kind(
            404,
            "not_found",
            "There is no such resource",
            "Check the address; ids of other tenants are unknown to you.",
        ),
        Kind(
            405,
            "method_not_allowed",
            "The resource does not take this method",
            "Use a method of the Allow header.",
        ),
        Kind(
            406,
            "not_acceptable",
            "No acceptable representation",
            "Accept one of the media types the detail names.",
        ),
        Kind(
            409,
            "wrong_state",
            "The resource's state does not allow this",
            "Look at the resource first; the detail says what it would need.",
        ),
        Kind(
            409,
            "idempotency_in_flight",
            "The first request with this Idempotency-Key is still running",
            "Repeat the request after the Retry-After seconds.",
        ),
        Kind(
            410,
            "recovery_key_revoked",
            "The recovery key was revoked and its bytes are deleted",
            "Run a new hide job: it makes a new delta and key.",
        ),
        Kind(
            410,
            "artifact_expired",
            "The artifact's bytes are deleted, on request or for their age",
            "Run its job again: POST that job's `spec` to the address that made it, for example /jobs/erase.",
        ),
        Kind(413, "payload_too_large", "The body is too large", "Stay below the limit the detail names."),
        Kind(
            415,
            "unsupported_media_type",
            "The body's media type is not supported",
            "Use the media type the detail names.",
        ),
        Kind(
            416,
            "range_not_satisfiable",
            "The range lies outside the artifact",
            "Ask for a range within the size in Content-Range.",
        ),
        Kind(422, "invalid_request", "The request is not valid", "Correct the fields listed in 'errors'."),
        Kind(
            422,
            "not_safetensors",
            "The upload is not safetensors",
            REMEDIES["not_safetensors"],
        ),
        Kind(
            422,
            "delta_does_not_fit",
            "The upload is not a delta of the model",
            REMEDIES["delta_does_not_fit"],
        ),
        Kind(
            422,
            "delta_not_finite",
            "The upload holds NaN or infinity",
            REMEDIES["delta_not_finite"],
        ),
        Kind(
            422,
            "not_an_image",
            "The upload is no image of its media type",
            "Send a whole PNG, JPEG or WebP file with its own Content-Type.",
        ),
        Kind(
            422,
            "image_unusable",
            "The image cannot be learned from",
            "Send a still image of 32 to 4096 px a side.",
        ),
        Kind(
            422,
            "no_concept_graph",
            "The model's concept graph was not measured",
            "Erase it with POST /jobs/erase and look at what moved with POST /inspect; measured graphs lie"
            " beside a model's weights as concept_graph.json.",
        ),
        Kind(
            422,
            "idempotency_mismatch",
            "This Idempotency-Key belongs to another request",
            "Use a new key for a new request.",
        ),
        Kind(
            429,
            "too_many_requests",
            "Too many requests",
            "Repeat after the Retry-After seconds, and ask less often.",
        ),
        Kind(
            429,
            "quota_exceeded",
            "A quota of the tenant is used up",
            "Repeat after the Retry-After seconds; GET /queue has all quotas.",
        ),
        Kind(500, "internal_error", "The server failed", "Report the request_id to the operator."),
        Kind(
            500,
            "artifact_corrupt",
            "The stored bytes do not match their sha256",
            "Do not use copies of this artifact; run its job again: POST that job's `spec`.",
        ),
        Kind(
            503,
            "unavailable",
            "A part of the service is down",
            "Repeat after the Retry-After seconds, with the same Idempotency-Key.",
        ),
    )
}
BY_STATUS = {kind.status: kind for kind in reversed(KINDS.values())}
ABOUT = {
    "malformed_request": "body",
    "unauthorized": "header.Authorization",
    "forbidden": "header.Authorization",
    "link_expired": "query.sig",
    "not_found": "path",
    "method_not_allowed": "method",
    "not_acceptable": "header.Accept",
    "idempotency_in_flight": "header.Idempotency-Key",
    "payload_too_large": "body",
    "unsupported_media_type": "header.Content-Type",
    "range_not_satisfiable": "header.Range",
    "not_an_image": "body",
    "image_unusable": "body",
    "no_concept_graph": "model",
    "idempotency_mismatch": "header.Idempotency-Key",
}
"""The part of the request that a sort of problem is always about."""


class FieldError(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(
        description=(
            "Where, as written in the request: 'concepts[0]', 'method.steps', 'query.limit', 'header.Accept',"
            " 'path', 'method', 'body'."
        ),
        examples=["concepts[0]"],
    )
    message: str = Field(description="What is wrong.")
    remedy: str | None = Field(default=None, description="What would be right, where that is known.")


class ProblemBody(BaseModel):
    """RFC 9457 problem details; every error of this service has this shape."""

    type: str = Field(
        description="Identifies the sort of problem; leads to its explanation.",
        examples=["/docs#invalid_request"],
    )
    code: str = Field(description="The same as a bare word, for programs.", examples=["invalid_request"])
    title: str
    status: int
    detail: str = Field(description="What happened this time, and the remedy.")
    instance: str | None = Field(default=None, description="The path that was asked for.")
    request_id: str | None = Field(
        default=None, description="Also in the X-Request-ID header and in the server's log."
    )
    errors: list[FieldError] | None = Field(
        default=None, description="Each part of the request that is at fault."
    )


class Problem(Exception):
    """Raise to answer with this problem."""

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: list[FieldError] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.kind = KINDS[code]
        self.detail = detail or self.kind.remedy
        self.errors = errors or (
            [FieldError(field=ABOUT[code], message=self.kind.title)] if code in ABOUT else None
        )
        self.headers = headers or {}
        super().__init__(f"{code}: {self.detail}")


def bad_header(name: str, remedy: str) -> Problem:
    """A 400 about one header."""
    error = FieldError(field=f"header.{name}", message="cannot be used", remedy=remedy)
    return Problem("bad_header", f"{name}: {remedy}.", errors=[error])


def invalid(field: str, message: str, remedy: str | None = None) -> Problem:
    """A 422 about one field."""
    detail = f"{field}: {message}: {remedy}" if remedy else f"{field}: {message}"
    return Problem(
        "invalid_request", detail, errors=[FieldError(field=field, message=message, remedy=remedy)]
    )


def not_found(what: str) -> Problem:
    """The same 404 for an unknown id and for another tenant's."""
    return Problem("not_found", f"There is no such {what}.")


def body(problem: Problem, *, instance: str | None, request_id: str | None, root: str = "") -> dict[str, Any]:
    kind = problem.kind
    details = ProblemBody(
        type=f"{root}/docs#{kind.code}",
        code=kind.code,
        title=kind.title,
        status=kind.status,
        detail=problem.detail,
        instance=instance,
        request_id=request_id,
        errors=problem.errors,
    )
    return details.model_dump(exclude_none=True)


def answer(problem: Problem, *, instance: str | None, request_id: str | None, root: str = "") -> JSONResponse:
    """The response; `root` is the prefix below which the API is served."""
    return JSONResponse(
        body(problem, instance=instance, request_id=request_id, root=root),
        status_code=problem.kind.status,
        headers={"Cache-Control": "no-store", **problem.headers},
        media_type=MEDIA_TYPE,
    )


EVERYWHERE = (
    "invalid_request",
    "unauthorized",
    "forbidden",
    "not_acceptable",
    "too_many_requests",
    "internal_error",
    "unavailable",
)


def responses(*codes: str, public: bool = False) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses=` of a route that may answer with these problems, and (unless public) with those
    that every route may.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for code in dict.fromkeys((*codes, "invalid_request") if public else (*codes, *EVERYWHERE)):
        kind = KINDS[code]
        text = f"`{code}`: {kind.title}. {kind.remedy}"
        if kind.status in found:
            found[kind.status]["description"] += "\n\n" + text
        else:
            found[kind.status] = {
                "description": text,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
            headers = OPENAPI_HEADERS.get(kind.status)
            if headers:
                found[kind.status]["headers"] = {
                    name: {"description": text, "schema": {"type": "string"}}
                    for name, text in headers.items()
                }
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


OPENAPI_HEADERS = {
    401: {"WWW-Authenticate": "Bearer, with the error of RFC 6750."},
    405: {"Allow": "The methods the resource takes."},
    429: {
        "Retry-After": "Seconds to wait.",
        "RateLimit-Policy": "The limit: `q` so many, in `w` seconds (draft-ietf-httpapi-ratelimit-headers).",
        "RateLimit": "What is left of it: `r`, to change within `t` seconds.",
    },
    503: {"Retry-After": "Seconds to wait."},
}

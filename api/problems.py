"""The catalogue of problems: every error is answered as an RFC 9457 problem."""

from typing import Any, NamedTuple

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from expunge.core.delta_format.errors import REMEDIES

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """A kind of problem: HTTP status, stable code, title, and what a client can do."""

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
            "The request cannot be parsed",
            "Send well-formed JSON: no duplicate keys, no NaN or Infinity, no deep nesting.",
        ),
        Kind(400, "bad_header", "A request header is not valid", "Correct the header named in 'detail'."),
        Kind(
            401,
            "unauthorized",
            "A valid API key is required",
            "Send 'Authorization: Bearer <key>' with a key that has neither expired nor been revoked.",
        ),
        Kind(
            403,
            "forbidden",
            "The API key lacks a scope",
            "Use a key that has the scope named in 'detail'.",
        ),
        Kind(
            403,
            "link_expired",
            "The link has expired or was not issued by this service",
            "Get a new link with POST /artifacts/{id}/link.",
        ),
        Kind(
            404,
            "not_found",
            "There is no such resource",
            "Check the address. You cannot see resources of other tenants.",
        ),
        Kind(
            405,
            "method_not_allowed",
            "The resource does not support this method",
            "Use one of the methods in the Allow header.",
        ),
        Kind(
            406,
            "not_acceptable",
            "The resource is not available in an accepted media type",
            "Accept one of the media types named in 'detail'.",
        ),
        Kind(
            409,
            "wrong_state",
            "The resource's state does not allow this",
            "GET the resource first; 'detail' says which state is required.",
        ),
        Kind(
            409,
            "artifact_withheld",
            "The artifact is withheld, because the job's verdict is not 'passed'",
            "The job's report.json and report.html say why, and what to try. For these weights nevertheless,"
            " run the job again with `evaluation.on_fail: publish_marked`.",
        ),
        Kind(
            409,
            "idempotency_in_flight",
            "The first request with this Idempotency-Key is still running",
            "Repeat the request after the number of seconds in Retry-After.",
        ),
        Kind(
            410,
            "recovery_key_revoked",
            "The recovery key was revoked and its bytes are deleted",
            "Run a new hide job: it makes a new delta and a new key.",
        ),
        Kind(
            410,
            "artifact_expired",
            "The artifact's bytes were deleted, on request or because of their age",
            "Run its job again: POST that job's `spec` to the address that created it, for example"
            " /jobs/erase.",
        ),
        Kind(413, "payload_too_large", "The body is too large", "Stay within the limit named in 'detail'."),
        Kind(
            415,
            "unsupported_media_type",
            "The body's media type is not supported",
            "Use a media type named in 'detail'.",
        ),
        Kind(
            416,
            "range_not_satisfiable",
            "The range lies outside the artifact",
            "Request a range within the size given in Content-Range.",
        ),
        Kind(422, "invalid_request", "The request is not valid", "Correct the fields listed in 'errors'."),
        Kind(
            422,
            "not_safetensors",
            "The upload is not a safetensors file",
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
            "The upload contains NaN or infinity",
            REMEDIES["delta_not_finite"],
        ),
        Kind(
            422,
            "bad_judge",
            "The upload is not a judge that can be used",
            "Make the file with 'expunge pack-judge FOLDER FILE' from a timm or open_clip folder.",
        ),
        Kind(
            422,
            "not_an_image",
            "The upload is not an image of its media type",
            "Send a complete PNG, JPEG or WebP file with the matching Content-Type.",
        ),
        Kind(
            422,
            "image_unusable",
            "The image cannot be used for learning",
            "Send a still image with sides of 32 to 4096 px.",
        ),
        Kind(
            422,
            "prompt_set_unusable",
            "The upload is not a usable prompt set",
            "Correct the lines listed in 'errors', and send the whole file again.",
        ),
        Kind(
            422,
            "no_concept_graph",
            "The model has no measured concept graph",
            "Erase with POST /jobs/erase, then see what changed with POST /inspect. A measured graph is the"
            " file concept_graph.json beside a model's weights.",
        ),
        Kind(
            422,
            "idempotency_mismatch",
            "This Idempotency-Key was used for another request",
            "Use a new key for a new request.",
        ),
        Kind(
            429,
            "too_many_requests",
            "Too many requests",
            "Repeat after the number of seconds in Retry-After, and send requests less often.",
        ),
        Kind(
            429,
            "quota_exceeded",
            "A quota of the tenant is used up",
            "Repeat after the number of seconds in Retry-After; GET /queue shows all quotas.",
        ),
        Kind(500, "internal_error", "The server failed", "Report the request_id to the operator."),
        Kind(
            500,
            "artifact_corrupt",
            "The stored bytes do not match their sha256",
            "Do not use copies of this artifact. Run its job again: POST that job's `spec`.",
        ),
        Kind(
            503,
            "unavailable",
            "A part of the service is down",
            "Repeat after the number of seconds in Retry-After, with the same Idempotency-Key.",
        ),
    )
}
BY_STATUS = {kind.status: kind for kind in reversed(KINDS.values())}
FIELDS = {
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
    "bad_judge": "body",
    "not_an_image": "body",
    "image_unusable": "body",
    "prompt_set_unusable": "body",
    "no_concept_graph": "model",
    "idempotency_mismatch": "header.Idempotency-Key",
}
"""The part of the request that a kind of problem is always about."""


class FieldError(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(
        description=(
            "The field, as written in the request: 'concepts[0]', 'method.steps', 'query.limit',"
            " 'header.Accept', 'path', 'method', 'body'."
        ),
        examples=["concepts[0]"],
    )
    message: str = Field(description="What is wrong.")
    remedy: str | None = Field(default=None, description="How to correct it, where that is known.")


class ProblemBody(BaseModel):
    """RFC 9457 problem details; every error of this service has this form."""

    type: str = Field(
        description="Identifies the kind of problem; links to its explanation.",
        examples=["/docs#invalid_request"],
    )
    code: str = Field(description="The kind of problem, for programs.", examples=["invalid_request"])
    title: str
    status: int
    detail: str = Field(description="What happened in this case, and how to correct it.")
    instance: str | None = Field(default=None, description="The requested path.")
    request_id: str | None = Field(
        default=None, description="The request's id; also in the X-Request-ID header and in the server's log."
    )
    errors: list[FieldError] | None = Field(
        default=None, description="Each part of the request that is wrong."
    )


class Problem(Exception):
    """Raise it to answer with this problem."""

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
        self.errors = errors
        if not errors and code in FIELDS:
            self.errors = [FieldError(field=FIELDS[code], message=self.kind.title)]
        self.headers = headers or {}
        super().__init__(f"{code}: {self.detail}")


def bad_header(name: str, remedy: str) -> Problem:
    """A 400 about one header."""
    error = FieldError(field=f"header.{name}", message="is not valid", remedy=remedy)
    return Problem("bad_header", f"{name}: {remedy}.", errors=[error])


def invalid(field: str, message: str, remedy: str | None = None) -> Problem:
    """A 422 about one field."""
    detail = f"{field}: {message}: {remedy}" if remedy else f"{field}: {message}"
    error = FieldError(field=field, message=message, remedy=remedy)
    return Problem("invalid_request", detail, errors=[error])


def problem_body(
    problem: Problem, *, instance: str | None, request_id: str | None, root: str = ""
) -> dict[str, Any]:
    """The problem as JSON; `root` is the prefix that the API is served under."""
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


def problem_response(
    problem: Problem, *, instance: str | None, request_id: str | None, root: str = ""
) -> JSONResponse:
    """The response for a problem; `root` is the prefix that the API is served under."""
    return JSONResponse(
        problem_body(problem, instance=instance, request_id=request_id, root=root),
        status_code=problem.kind.status,
        headers={"Cache-Control": "no-store", **problem.headers},
        media_type=MEDIA_TYPE,
    )

"""The answers that routes document in OpenAPI, besides their response model."""

from typing import Any

from expunge.api.problems import KINDS, MEDIA_TYPE
from expunge.api.schemas.jobs import DryRun, Job

Responses = dict[int | str, dict[str, Any]]
ON_EVERY_ROUTE = (
    "invalid_request",
    "unauthorized",
    "forbidden",
    "not_acceptable",
    "too_many_requests",
    "internal_error",
    "unavailable",
)
JSON_BODY = ("malformed_request", "payload_too_large", "unsupported_media_type", "invalid_request")
"""Problems of a route that takes a JSON body."""
IDEMPOTENT = ("bad_header", "idempotency_in_flight", "idempotency_mismatch")
"""Problems of a route that takes an Idempotency-Key."""
HEADERS = {
    401: {"WWW-Authenticate": "Bearer, with the error of RFC 6750."},
    405: {"Allow": "The methods that the resource supports."},
    429: {
        "Retry-After": "Seconds to wait.",
        "RateLimit-Policy": (
            "The limit: `q` requests in `w` seconds (draft-ietf-httpapi-ratelimit-headers)."
        ),
        "RateLimit": "What is left: `r` requests, until it changes in `t` seconds.",
    },
    503: {"Retry-After": "Seconds to wait."},
}


def problem_responses(*codes: str, public: bool = False) -> Responses:
    """The `responses=` of a route that may answer with these problems.

    Those that every route may answer with are added, or for a public route only `invalid_request`.
    """
    found: Responses = {}
    for code in dict.fromkeys((*codes, "invalid_request") if public else (*codes, *ON_EVERY_ROUTE)):
        kind = KINDS[code]
        text = f"`{code}`: {kind.title}. {kind.remedy}"
        if kind.status in found:
            found[kind.status]["description"] += "\n\n" + text
            continue
        found[kind.status] = {
            "description": text,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if kind.status in HEADERS:
            found[kind.status]["headers"] = {
                name: text_header(description) for name, description in HEADERS[kind.status].items()
            }
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def text_header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


REPLAYED = text_header("`true` when this repeats the answer to an earlier request.")
JOB_ACCEPTED: Responses = {
    202: {
        "description": "Accepted; the job runs when a worker is free.",
        "headers": {
            "Location": text_header("The job's address."),
            "Retry-After": text_header("Seconds after which to look at the job."),
            "Idempotency-Replayed": REPLAYED,
        },
    },
    **problem_responses(*JSON_BODY, *IDEMPOTENT, "quota_exceeded"),
}
DRY_RUN_OR_ENDED: Responses = {
    200: {
        "description": (
            "With `dry_run=true`: the resolved spec. With `Prefer: wait`: the job, which has ended."
        ),
        "model": Job | DryRun,
    },
}
CREATED: Responses = {
    201: {
        "description": "Created.",
        "headers": {
            "Location": text_header("The address of what was created."),
            "Idempotency-Replayed": REPLAYED,
        },
    }
}

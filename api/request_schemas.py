"""What clients send about webhooks and API keys; what they send about jobs is in core/specs."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from expunge.core.specs import Spec
from expunge.store.keys import Scope
from expunge.store.webhooks import Event as WebhookEvent

DAY = 86_400
T = TypeVar("T")


def filled(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty: give it a name")
    return text


def printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("contains a control character or an invisible one: remove it")
    return text


def distinct(items: list[T]) -> list[T]:
    return list(dict.fromkeys(items))


Line = Annotated[str, Field(max_length=200), AfterValidator(printable)]
Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description=(
            "https, port 443, a host with public addresses only; no user name, no fragment. It is looked up"
            " and checked again before each attempt."
        ),
        examples=["https://hooks.example.com/expunge"],
    ),
]
Events = Annotated[
    list[WebhookEvent],
    Field(min_length=1, max_length=16, description="Which ends of jobs to tell of."),
    AfterValidator(distinct),
]


class WebhookRequest(Spec):
    """A new webhook."""

    url: Url
    events: Events = Field(default=["job.succeeded", "job.failed", "job.cancelled", "job.expired"])
    description: Line = Field(default="", description="For people.")
    enabled: bool = Field(
        default=True, description="A disabled webhook hears of nothing that happens meanwhile."
    )


class WebhookPatch(Spec):
    """What is to change of a webhook; what is omitted, or null, stays."""

    url: Url | None = None
    events: Events | None = None
    description: Line | None = None
    enabled: bool | None = Field(
        default=None, description="true also takes up deliveries that were waiting when it was disabled."
    )


class PauseRequest(Spec):
    """How to pause the queue."""

    hand_over: bool = Field(
        default=False,
        description="Whether running jobs stop at their next checkpoint, to go on after the pause.",
    )
    reason: Line = Field(default="", description="For people; GET /queue shows it.")


class KeyRequest(Spec):
    """A new API key."""

    name: Annotated[
        str,
        Field(
            min_length=1, max_length=100, description="To tell keys apart.", examples=["takedown pipeline"]
        ),
        AfterValidator(printable),
        AfterValidator(filled),
    ]
    scopes: Annotated[
        list[Scope],
        Field(min_length=1, max_length=16, description="What it may do; `admin` may do all."),
        AfterValidator(distinct),
    ]
    expires_in_s: int | None = Field(
        default=None, ge=60, le=3650 * DAY, description="Seconds until it expires; omitted: never."
    )


class KeyRotation(Spec):
    """How long the old key lives on."""

    overlap_s: int = Field(
        default=DAY,
        ge=0,
        le=30 * DAY,
        description=(
            "Seconds for which the old key still works, so that a lost answer locks nobody out; 0 revokes it"
            " at once, as for a key that leaked."
        ),
    )

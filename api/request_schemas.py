"""What clients send about artifacts, webhooks, the queue and API keys; job requests are in core/specs."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from expunge.api import signed_urls
from expunge.core.specs import Spec
from expunge.store.keys import Scope
from expunge.store.webhooks import EVENTS, Event as WebhookEvent

DAY = 86_400  # seconds
T = TypeVar("T")


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty: give it a name")
    return text


def printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("contains a control character or an invisible one: remove it")
    return text


def without_duplicates(items: list[T]) -> list[T]:
    return list(dict.fromkeys(items))


Line = Annotated[str, Field(max_length=200), AfterValidator(printable)]
Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description=(
            "https on port 443, with a host that has only public addresses; no user name and no fragment. The"
            " host is looked up and checked again before each attempt."
        ),
        examples=["https://hooks.example.com/expunge"],
    ),
]
Events = Annotated[
    list[WebhookEvent],
    Field(min_length=1, max_length=16, description="Which outcomes of jobs to notify about."),
    AfterValidator(without_duplicates),
]


class LinkSpec(Spec):
    """How long a link is valid."""

    lifetime_s: int = Field(
        default=signed_urls.MAX_LIFETIME,
        ge=1,
        le=signed_urls.MAX_LIFETIME,
        description="Seconds until it expires.",
    )


class WebhookRequest(Spec):
    """A new webhook."""

    url: Url
    events: Events = Field(default=list(EVENTS))
    description: Line = Field(default="", description="For people.")
    enabled: bool = Field(
        default=True, description="A disabled webhook is not notified of what happens in the meantime."
    )


class WebhookPatch(Spec):
    """Changes to a webhook; what is omitted, or null, stays as it is."""

    url: Url | None = None
    events: Events | None = None
    description: Line | None = None
    enabled: bool | None = Field(
        default=None,
        description="true also resumes deliveries that were pending when the webhook was disabled.",
    )


class PauseRequest(Spec):
    """How to pause the queue."""

    hand_over: bool = Field(
        default=False,
        description="Whether running jobs stop at their next checkpoint and continue after the pause.",
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
        AfterValidator(not_blank),
    ]
    scopes: Annotated[
        list[Scope],
        Field(min_length=1, max_length=16, description="What the key may do; `admin` includes everything."),
        AfterValidator(without_duplicates),
    ]
    expires_in_s: int | None = Field(
        default=None, ge=60, le=3650 * DAY, description="Seconds until it expires; omitted: never."
    )


class KeyRotation(Spec):
    """How long the old key stays valid."""

    overlap_s: int = Field(
        default=DAY,
        ge=0,
        le=30 * DAY,
        description=(
            "Seconds for which the old key still works, so that a lost answer does not lock you out. 0"
            " revokes it at once: use it for a key that has leaked."
        ),
    )

"""Logs of API, workers and loops: one JSON object per line, without keys, signatures, passwords or concepts.

Code that handles a job calls `hide` with its spec: from then on, in that context, the spec's texts are logged
as hashes, whichever library quotes them.
"""

import hashlib
import hmac
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TextIO
from urllib.parse import urlsplit

import structlog

from expunge.core.specs.words import own_words
from expunge.store import tracing
from expunge.store.server_secret import derive_key
from expunge.store.settings import Settings

SECRETS = (
    (re.compile(r"\b(ex_live_)\w+"), r"\1…"),
    (re.compile(r"\b(whsec_)[\w+/=]+"), r"\1…"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]+"), r"\1…"),
    (
        re.compile(
            r"(?i)\b((?:x-amz-signature|x-amz-credential|x-amz-security-token|sig|signature)=)[^&\s\"']+"
        ),
        r"\1…",
    ),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)"), r"\1…\2"),
)
# What each of them begins with: most texts have none of it, and one search is cheaper than five.
PERHAPS = re.compile(r"(?i)ex_live_|whsec_|bearer\s|(?:signature|credential|token|sig)=|://")
hidden: ContextVar[re.Pattern[str] | None] = ContextVar("hidden", default=None)
Event = structlog.typing.EventDict


def fingerprint(settings: Settings, text: str) -> str:
    """What the log has for a concept: its hash under EXPUNGE_SECRET, which no list of words can undo.

    The concept itself where EXPUNGE_LOG_CONCEPTS is set.
    """
    if settings.log_concepts:
        return text
    return hmac.new(
        derive_key(settings.secret.get_secret_value(), "logs"), text.casefold().encode(), hashlib.sha256
    ).hexdigest()[:12]


def quoted_forms(text: str) -> set[str]:
    """A text as it is, as part of file names, and as Python and JSON quote it."""
    quoted = {repr(text), ascii(text), json.dumps(text), json.dumps(text, ensure_ascii=False)}
    return {text, text.replace(" ", "-"), text.replace(" ", "_"), *(form[1:-1] for form in quoted)}


def hide(spec: Mapping[str, Any]) -> None:
    """Keep a spec's own texts out of the log, in this context and copies of it; an empty spec ends that."""
    hidden.set(compile_pattern(spec))


def compile_pattern(spec: Mapping[str, Any]) -> re.Pattern[str] | None:
    """A pattern that finds a spec's own texts; slow where they are many."""
    found = {form for text in own_words(spec) for form in quoted_forms(text)}
    longest_first = sorted((form for form in found if form.strip()), key=lambda form: (-len(form), form))
    either = "|".join(re.escape(form) for form in longest_first)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE) if either else None


class Redact:
    """A structlog processor that masks secrets and a job's own texts in every value."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        urls = (settings.database_url.get_secret_value(), settings.redis_url.get_secret_value())
        known = [
            settings.secret.get_secret_value(),
            *settings.older_secrets,
            *(urlsplit(url).password for url in urls),
        ]
        self.known = [word for word in known if word and len(word) >= 8]

    def __call__(self, _: Any, __: str, event: Event) -> Event:
        return {key: self.clean(value) for key, value in event.items()}

    def clean(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {key: self.clean(each) for key, each in value.items()}
            case list() | tuple() | set():
                return [self.clean(each) for each in value]
            case None | bool() | int() | float():
                return value
            case _:
                return self.text(str(value))

    def text(self, value: str) -> str:
        for word in self.known:
            value = value.replace(word, "…")
        if PERHAPS.search(value):
            for pattern, mask in SECRETS:
                value = pattern.sub(mask, value)
        own = None if self.settings.log_concepts else hidden.get()
        return value if own is None else own.sub(lambda found: fingerprint(self.settings, found[0]), value)


class Handler(logging.StreamHandler[TextIO]):
    """Writes libraries' log records in the same form, to what the stream is at that moment."""

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        super().__init__(stream())
        self.current = stream

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = self.current()
        super().emit(record)


def configure(settings: Settings, service: str, stream: Callable[[], TextIO] = lambda: sys.stderr) -> None:
    """Configure a process' log: its own lines from INFO on, libraries' from WARNING on.

    uvicorn's access log is switched off: our own line for each request replaces it.
    """

    def named(_: Any, __: str, event: Event) -> Event:
        return {"service": service, **tracing.trace_ids(), **event}

    # What a line holds: first for every line, then how it is written
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
    ]
    after: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        Redact(settings),
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]
    # Our own lines
    structlog.configure(
        processors=[*before, *after],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.WriteLogger(stream()),
        cache_logger_on_first_use=False,
    )
    # Lines of libraries, in the same form
    handler = Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *after],
        )
    )
    root = logging.getLogger()
    root.handlers = [each for each in root.handlers if not isinstance(each, Handler)] + [handler]
    # uvicorn logs through the root, and no requests
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
    access = logging.getLogger("uvicorn.access")
    access.propagate, access.disabled = False, True

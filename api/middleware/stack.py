"""The middleware, in the order a request meets it.

1. SendFile (sendfile.py): lets a download go from the kernel into the socket.
2. OpenTelemetry, where tracing is configured.
3. Envelope (envelope.py): request id, safe headers, log line; turns exceptions into problems.
4. Authenticate (authentication.py): 401, and with rate_limit.py 429, before anything reads the body.
5. BodyLimit (body_limit.py): 413, 415, and 400 for a body that is not strict JSON.
"""

from fastapi import FastAPI
from starlette.middleware import Middleware

from expunge.api.middleware.authentication import Authenticate
from expunge.api.middleware.body_limit import BodyLimit
from expunge.api.middleware.envelope import Envelope
from expunge.api.middleware.sendfile import SendFile
from expunge.api.services import Services
from expunge.store import tracing


def middleware(services: Services) -> list[Middleware]:
    """The part of the order that FastAPI assembles, the outermost first."""
    return [
        Middleware(Envelope, metrics=services.metrics),
        Middleware(Authenticate, services=services),
        Middleware(BodyLimit),
    ]


def wrap(app: FastAPI) -> None:
    """Put what must be outside of FastAPI's own middleware around it."""
    if tracing.configure("api"):
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, excluded_urls="healthz,readyz,metrics")
    # FastAPI puts its own ServerErrorMiddleware around all middleware that it is given, with a `send` of its
    # own. SendFile needs the server's, so it goes around the finished stack.
    build_inner = app.build_middleware_stack
    app.build_middleware_stack = lambda: SendFile(build_inner())  # type: ignore[method-assign]

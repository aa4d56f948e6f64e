"""A webhook's receiver: a real little HTTP server that keeps what it got and answers as it was told."""

import datetime
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Answer = int | Callable[["Handler"], None]


@dataclass
class Got:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers` are given in turn, the last one for ever; `got` is what came, `sni` the names that TLS
    asked for.
    """

    port: int = 0
    answers: list[Answer] = field(default_factory=lambda: [200])
    got: list[Got] = field(default_factory=list)
    sni: list[str | None] = field(default_factory=list)
    scheme: str = "http"
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, host: str = "127.0.0.1", path: str = "/hook") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


class Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        receiver = self.receiver
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        receiver.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        answer = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
        try:
            if callable(answer):
                answer(self)
            else:
                self.send_response(answer)
                self.end_headers()
                self.wfile.write(b"an answer that is nobody's business")
        except OSError:  # the other side hung up, as it should
            pass

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:  # a handshake that was refused
        pass


def drip(first: bytes, piece: bytes) -> Callable[[Handler], None]:
    """Send a beginning, then a piece at a time, until the other side hangs up."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(first)
        while not handler.receiver.over.is_set():
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.05)

    return answer


def flood(first: bytes) -> Callable[[Handler], None]:
    """Send a beginning, then without end."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(first)
        while not handler.receiver.over.is_set():
            handler.wfile.write(b"x" * 4096)

    return answer


def silent(handler: Handler) -> None:
    handler.receiver.over.wait(60)


def to(location: str, status: int = 302) -> Callable[[Handler], None]:
    """A redirect."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Location", location)
        handler.end_headers()

    return answer


def certificate(folder: Path, host: str) -> Path:
    """A self-signed certificate of a host, with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{host}.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@contextmanager
def receiving(*answers: Answer, pem: Path | None = None) -> Iterator[Receiver]:
    receiver = Receiver(answers=list(answers) or [200])
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"receiver": receiver}))
    if pem is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        context.sni_callback = lambda _, name, __: receiver.sni.append(name)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        receiver.scheme = "https"
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.over.set()
        server.shutdown()
        server.server_close()
        thread.join()

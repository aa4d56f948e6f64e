"""A TCP proxy that cuts connections, to see what a client makes of a bad line."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Lossy:
    """Forwards to a service; connection n is cut once it has answered `cuts[n]` bytes (None: never)."""

    def __init__(self, url: str, cuts: list[int | None]) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.upstream, self.cuts = (host, int(port)), cuts
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.opened = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                cut = self.cuts[self.opened] if self.opened < len(self.cuts) else None
                self.opened += 1
                far = socket.create_connection(self.upstream)
                threading.Thread(target=self.pump, args=(near, far, None), daemon=True).start()
                threading.Thread(target=self.pump, args=(far, near, cut), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, cut: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if cut is not None and passed + len(chunk) > cut:
                    sink.sendall(chunk[: cut - passed])
                    break
                passed += len(chunk)
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def lossy(url: str, *cuts: int | None) -> Iterator[Lossy]:
    proxy = Lossy(url, list(cuts))
    try:
        yield proxy
    finally:
        proxy.listener.close()

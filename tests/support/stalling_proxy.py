"""A TCP proxy that stops forwarding in the middle of an upload, and holds the line."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Stall:
    """Forwards to a service; a connection that has sent `after` bytes is held from then on, until `end`."""

    def __init__(self, url: str, after: int) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.upstream, self.after = (host, int(port)), after
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.held, self.over = threading.Event(), threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.upstream)
                threading.Thread(target=self.pump, args=(near, far, self.after), daemon=True).start()
                threading.Thread(target=self.pump, args=(far, near, None), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, after: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                passed += len(chunk)
                if after is not None and passed > after:
                    self.held.set()
                    self.over.wait()
                    break
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def stalling(url: str, after: int) -> Iterator[Stall]:
    proxy = Stall(url, after)
    try:
        yield proxy
    finally:
        proxy.over.set()
        proxy.listener.close()

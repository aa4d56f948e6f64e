"""A TCP proxy on loopback that can be cut, and that tells when bytes pass: stands for the network between two
processes.
"""

import contextlib
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Forwards every connection to `target` (host, port) until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        # Of a client's bytes: whether to pass them on
        self.on_request: Callable[[bytes], bool] = lambda _: True
        self.on_reply: Callable[[bytes], bool] = lambda _: True  # of the server's
        self.open, self.pairs = True, list[socket.socket]()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                if not self.open:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(self.target, timeout=10)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self.pairs += [client, server]
                for source, sink, asked in ((client, server, "on_request"), (server, client, "on_reply")):
                    threading.Thread(target=self.pump, args=(source, sink, asked), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, asked: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not getattr(self, asked)(data):
                    break
                sink.sendall(data)
        for end in (source, sink):
            shut(end)

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self.open = False
        pairs, self.pairs = self.pairs, []
        for end in pairs:
            shut(end)

    def mend(self) -> None:
        self.open = True

    def close(self) -> None:
        self.cut()
        self.listener.close()


def shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()

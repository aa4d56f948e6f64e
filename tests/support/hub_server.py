"""A server that speaks as much of the hub's protocol as its client asks for: one repository, from a
folder.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


@contextmanager
def served(
    folder: Path, repository: str = "org/sd", revisions: tuple[str, ...] = ("main", COMMIT)
) -> Iterator[tuple[str, list[str]]]:
    """(the hub's address, the files that were sent)."""
    sent: list[str] = []
    files = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*")) if f.is_file()}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            found = next(
                (
                    (kind, path.removeprefix(begin))
                    for kind, begin in self.routes()
                    if f"{path}/".startswith(begin)
                ),
                None,
            )
            if found is None:
                return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
            kind, rest = found
            if kind == "tree":
                return self.json(
                    [
                        {"type": "file", "path": n, "size": f.stat().st_size, "oid": "0" * 40}
                        for n, f in files.items()
                    ],
                    body,
                )
            if kind == "info":
                return self.json(
                    {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}, body
                )
            if rest not in files:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            content = files[rest].read_bytes()
            if body:
                sent.append(rest)
            self.send(
                200,
                content,
                {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT},
                body,
            )

        def routes(self) -> list[tuple[str, str]]:
            api = f"/api/models/{repository}"
            return [
                *(("tree", f"{api}/tree/{r}/") for r in revisions),
                *(("info", f"{api}/revision/{r}/") for r in revisions),
                *(("file", f"/{repository}/resolve/{r}/") for r in revisions),
            ]

        def json(self, value: object, body: bool) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

        def send(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

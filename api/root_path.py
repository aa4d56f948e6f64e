"""Paths below a prefix: where a reverse proxy serves the API under one, `--root-path` names it."""

from urllib.parse import quote

from starlette.types import Scope


def strip_root(path: str, root: str) -> str:
    """The path without the prefix; unchanged where it has none."""
    return path[len(root) :] or "/" if root and (path == root or path.startswith(f"{root}/")) else path


def normalize(scope: Scope) -> None:
    """Make the request's path contain the prefix exactly once.

    The server puts it in front of what the proxy sends, which may contain it already.
    """
    root = scope.get("root_path", "").rstrip("/")
    path = root + strip_root(strip_root(scope["path"], root), root)
    scope.update(root_path=root, path=path, raw_path=quote(path).encode())


def route_path(scope: Scope) -> str:
    """The path as the routes are declared: without the prefix."""
    return strip_root(scope["path"], scope.get("root_path", ""))

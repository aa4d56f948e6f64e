"""Paths below a prefix: where a reverse proxy serves the API under one, `--root-path` names it."""

from urllib.parse import quote

from starlette.types import Scope


def bare(path: str, root: str) -> str:
    """The path without the prefix; as it is where it has none."""
    return path[len(root) :] or "/" if root and (path == root or path.startswith(f"{root}/")) else path


def settle(scope: Scope) -> None:
    """Let the path have the prefix once.

    The server puts it in front of what the proxy sends, which has it already or not.
    """
    root = scope.get("root_path", "").rstrip("/")
    path = root + bare(bare(scope["path"], root), root)
    scope.update(root_path=root, path=path, raw_path=quote(path).encode())


def route(scope: Scope) -> str:
    """The path that the routes know."""
    return bare(scope["path"], scope.get("root_path", ""))

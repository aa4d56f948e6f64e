"""Write the lock files anew (`make lock`, which brings uv): every package that pyproject.toml asks for,
directly or not, with its version and sha256.

    api.lock      expunge[service]: no torch, nothing that needs it
    worker.lock   expunge[worker]: no HTTP server
    dev.lock      expunge[dev]: everything, with what tests and checks need

torch, torchvision and the CUDA libraries that torch itself pins are in none of them: one version of torch is
many wheels (CPU, CUDA 12, CUDA 13), so a hash would forbid all but one. pyproject.toml pins their version,
and they are installed first; the rest goes by hash, without resolving anything.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
BY_VERSION = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")
HEAD = "# Written by `make lock`; do not edit.\n"


def compiled(extra: str, *options: str) -> str:
    """What the package with an extra needs, for Linux and macOS and every Python we support, in one file."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", extra]
    form = ["--universal", "--python-version", "3.11", "--generate-hashes"]
    quiet = ["--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]
    done = subprocess.run(
        [*command, *options, *form, *quiet], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def by_hash(text: str) -> str:
    """Without what goes by version."""
    blocks = re.findall(r"(?m)^\S.*\n(?:[ \t].*\n)*", text)
    return HEAD + "".join(block for block in blocks if not BY_VERSION.match(block))


def main() -> None:
    (HERE / "dev.lock").write_text(by_hash(compiled("dev")))
    for name, extra in {"api": "service", "worker": "worker"}.items():
        text = compiled(extra, "--constraint", "requirements/dev.lock")
        (HERE / f"{name}.lock").write_text(by_hash(text))


if __name__ == "__main__":
    main()

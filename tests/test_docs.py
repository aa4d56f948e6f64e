"""README and docs, tried: each sh and python block is run as it stands against one `expunge up`, in a folder
outside the repository, or says why not.

docs/your-own-model.md is tried in tests/api/test_models_page.py, which has the models that it speaks of.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from PIL import Image

from expunge.client import Expunge
from expunge.embedded import servers
from tests.support import documents
from tests.support.places import PYTHONPATH

PAGES = sorted(
    str(p.relative_to(documents.ROOT))
    for p in (*documents.ROOT.glob("*.md"), *documents.ROOT.glob("docs/*.md"))
    if p.name != "CHANGELOG.md"
)
ELSEWHERE = "docs/your-own-model.md"
FEW = "--set trajectories=1 --set sampling_steps=4"
SMALLER = {
    "make setup && source .venv/bin/activate": "true",
    "source .venv/bin/activate\n": "\n",
    "expunge erase church --method prune": (
        "expunge erase --set steps=2 --set method.name=esd --evaluation enabled=false church --method prune"
    ),
    "expunge erase": f"expunge erase --set steps=2 {FEW} --evaluation enabled=false",
    "expunge hide": f"expunge hide --set steps=2 {FEW} --recovery steps=2 --evaluation enabled=false",
    "expunge combine": "expunge combine --evaluation enabled=false",
    "expunge inspect": (
        "expunge inspect --set trajectories=1 --set timesteps=1 --set sampling_steps=4 --set pictures=0"
    ),
    '"method": "uce"}': '"method": "uce", "evaluation": {"enabled": false}}',
    'method="age"': 'method={"name": "age", "steps": 2, "trajectories": 1, "sampling_steps": 4}',
    "negative_prompt_embeds=negative)": "negative_prompt_embeds=negative, num_inference_steps=2)",
    "path/to/the/base/model": str(documents.ROOT / "core/bundled/emoji"),
}
"""What takes minutes, asked for in small; and what stands at another place here than with a person.

The first that fits is taken.
"""
# Learning words and counting attributes take minutes: asked whether they would be accepted
DRY = {"docs/editing.md"}
PRELUDE = r"""
set -Eeuo pipefail
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
curl() { command curl --fail-with-body "$@"; }
expunge() {  # the last job is $JOB, a page's first two are $A and $B
    local code=0
    command expunge "$@" 2> .said || code=$?
    cat .said >&2
    local id=$(sed -n 's/^job \([0-9a-f-]\{36\}\)$/\1/p' .said)
    if [ -n "$id" ]; then JOB=$id; B=${A:+${B:-$id}}; A=${A:-$id}; fi
    return $code
}
"""


@dataclass
class Place:
    """A service that README's commands started, and the folder in which a person would stand."""

    folder: Path
    port: int
    environment: dict[str, str]

    def smaller(self, text: str, page: str) -> str:
        dry = {"expunge erase": "expunge erase --dry-run"} if page in DRY else {}
        rules = SMALLER | dry | {"8000": str(self.port)}
        return re.sub("|".join(map(re.escape, rules)), lambda m: rules[m[0]], text)

    def standing(self, page: str) -> Path:
        folder = self.folder if page == "README.md" else self.folder / Path(page).stem
        folder.mkdir(exist_ok=True)
        return folder

    def shell(self, page: str) -> subprocess.CompletedProcess[str]:
        folder = self.standing(page)
        # A person's own pictures
        for name in set(re.findall(r"\b\w+\.(?:jpg|png)\b", "".join(documents.run(page, "sh")))):
            Image.effect_noise((64, 64), 90).save(folder / name)
        text = (
            PRELUDE
            + self.smaller("\n".join(t for t in documents.run(page, "sh") if "expunge up" not in t), page)
            + '\necho "JOB=${JOB:-}"\n'
        )
        return subprocess.run(
            ["bash", "-c", text],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """README's own `expunge up`, as pasted."""
    folder = tmp_path_factory.mktemp("person")
    ours = (
        "DATABASE_URL",
        "EXPUNGE_DATABASE_URL",
        "REDIS_URL",
        "EXPUNGE_REDIS_URL",
        "EXPUNGE_ARTIFACTS_URL",
        "EXPUNGE_SECRET",
        "EXPUNGE_SIGNING_KEY",
        "EXPUNGE_API_KEY",
        "EXPUNGE_URL",
    )
    environment = {name: value for name, value in os.environ.items() if name not in ours} | {
        "PYTHONPATH": PYTHONPATH
    }
    path = [str(documents.expunge(folder / "bin")), str(Path(sys.executable).parent), environment["PATH"]]
    made = Place(folder, servers.find_free_port(), environment | {"PATH": os.pathsep.join(path)})
    (up,) = (text for text in documents.run("README.md", "sh") if "expunge up" in text)
    log = (folder / "up.log").open("w")
    process = subprocess.Popen(
        ["bash", "-c", made.smaller(up, "README.md").replace("expunge up", "exec expunge up")],
        cwd=folder,
        env=made.environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        until_ready(made, process)
        yield made
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(120)
        log.close()


def until_ready(made: Place, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert process.poll() is None, (made.folder / "up.log").read_text()
        if "api_key" in (made.folder / "up.log").read_text():
            key = (made.folder / "build/data/api_key").read_text().strip()
            made.environment |= {"EXPUNGE_URL": f"http://127.0.0.1:{made.port}", "EXPUNGE_API_KEY": key}
            assert httpx.get(f"{made.environment['EXPUNGE_URL']}/healthz").status_code == 200
            return
        time.sleep(0.3)
    pytest.fail((made.folder / "up.log").read_text())


def test_every_block_is_run_or_says_why_not():
    found = [block for page in PAGES for block in documents.blocks(page)]
    assert {block.language for block in found} <= {"sh", "python", "json", "yaml", "nginx", "text"}
    assert all(block.why for block in found if block.why is not None)
    assert any(block.why for block in found)
    for page in PAGES:
        text = (documents.ROOT / page).read_text()
        assert text.count("\n```") == 2 * len(documents.blocks(page)), f"{page}: a block that is not seen"


@pytest.mark.parametrize(
    "block", [b for page in PAGES for b in documents.blocks(page) if b.source], ids=lambda b: b.source
)
def test_what_is_quoted_from_the_source_stands_there(block: documents.Block):
    def lines(text: str) -> str:
        return "\n".join(line.strip() for line in text.splitlines())

    assert lines(block.text) in lines((documents.ROOT / block.source).read_text())


def test_json_is_json():
    found = [text for page in PAGES for text in documents.run(page, "json")]
    assert found
    for text in found:
        json.loads(text)


@pytest.mark.slow
def test_the_commands_run_in_their_order(place: Place):
    for page in [
        "README.md",
        *(p for p in PAGES if p not in ("README.md", ELSEWHERE) and documents.run(p, "sh")),
    ]:
        ran = place.shell(page)
        assert ran.returncode == 0, f"{page}:\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}"
        with Expunge(place.environment["EXPUNGE_URL"], place.environment["EXPUNGE_API_KEY"]) as client:
            for job in client.jobs():
                if not job.finished:  # asked for by curl, and not in small
                    client.cancel(job)
        place.environment["JOB"] = ran.stdout.rsplit("JOB=", 1)[1].strip() or place.environment["JOB"]


@pytest.mark.slow
def test_the_python_runs(place: Place, monkeypatch: pytest.MonkeyPatch):
    for name in ("EXPUNGE_URL", "EXPUNGE_API_KEY"):
        monkeypatch.setenv(name, place.environment[name])
    for page in (p for p in PAGES if p != ELSEWHERE):
        for text in documents.run(page, "python"):
            monkeypatch.chdir(place.standing(page))
            exec(compile(place.smaller(text, page), page, "exec"), {})


def test_what_the_map_names_is_there():
    """Every file and folder that docs/architecture.md names exists."""
    text = (documents.ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]*(?:\.py)?)`", text)) - {"src/expunge/"}
    assert len(named) > 40
    assert [name for name in sorted(named) if not (documents.ROOT / name).exists()] == []

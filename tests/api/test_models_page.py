"""docs/your-own-model.md, tried: its commands run, as far as they need no hub, on a copy of the bundled
model.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from expunge.core.sources import parse
from expunge.embedded.up import CannotStart, check_settings
from tests.support import customer_models, documents
from tests.support.places import PYTHONPATH
from tests.support.service import Tenant, make_settings, serve

NAME = "docs/your-own-model.md"
PAGE = (documents.ROOT / NAME).read_text()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return customer_models.copy(tmp_path / "models" / "mine")


@pytest.fixture
def shell(tmp_path: Path, mine: Path) -> dict[str, str]:
    """An environment in which `expunge` is this tree's, and the hub is out of reach."""
    return {
        **os.environ,
        "PATH": f"{documents.expunge(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": PYTHONPATH,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "TORCH_HOME": str(tmp_path / "torch"),
    }


def test_the_pages_commands_run(
    shell: dict[str, str], mine: Path, postgres_url: str, redis_url: str, tmp_path: Path
):
    settings = make_settings(
        postgres_url, redis_url, tmp_path / "artifacts", models={"emoji": "bundled:emoji", "mine": str(mine)}
    )
    said = {}
    with serve(settings) as (url, _):
        shell |= {"EXPUNGE_URL": url, "EXPUNGE_API_KEY": Tenant(url, settings).key()}
        for block in documents.run(NAME, "sh"):
            for line in block.splitlines():
                ran = subprocess.run(
                    ["bash", "-c", line.replace("/models/mine", str(mine))],
                    env=shell,
                    capture_output=True,
                    text=True,
                )
                said[line] = ran.returncode, ran.stdout + ran.stderr
    code, text = said["expunge check-model /models/mine"]
    assert (code, "Stable Diffusion" in text) == (0, True)
    assert text.split("sha256:")[1].strip() in PAGE  # the digest of the page's own example
    assert said["expunge models"][0] == 0
    assert "mine" in said["expunge models"][1]
    code, text = said["expunge erase church --model mine --dry-run"]
    assert code == 0, text
    code, text = said["expunge fetch-judges --check"]
    assert code == 1
    assert all(name in text for name in ("resnet50", "ViT-B-32", "LPIPS", "Inception", str(tmp_path / "hf")))


def test_the_pages_settings_are_read_and_checked_at_start(mine: Path, monkeypatch: pytest.MonkeyPatch):
    found = re.findall(r"EXPUNGE_MODELS='([^']*)'", PAGE)
    assert len(found) == 2
    monkeypatch.setenv("EXPUNGE_MODELS", found[0].replace("/models/mine", str(mine)))
    check_settings()
    assert parse("stable-diffusion-v1-5/stable-diffusion-v1-5@main").revision == "main"
    assert found[1].count('"mine": "/models/mine#sha256:') == 1


def test_the_page_names_services_and_commands_that_there_are():
    compose = yaml.safe_load((documents.ROOT / "docker-compose.yml").read_text())
    for block in documents.run(NAME, "yaml"):
        assert set(yaml.safe_load(block)["services"]) <= set(compose["services"])
    commands = tomllib.loads((documents.ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
        "expunge.commands"
    ]
    assert {"check-model", "fetch-judges", "up"} <= set(commands)
    for value in commands.values():
        assert callable(importlib.metadata.EntryPoint("x", value, "x").load())


@pytest.mark.parametrize(
    ("models", "named"),
    [
        ("{", "EXPUNGE_MODELS"),
        ("[]", "at least one model"),
        ("{}", "at least one model"),
        ('{"my model": "/models/mine"}', "'my model' is not a valid model id"),
        ('{"mine": {"source": "/models/mine"}}', "organisation/name@revision"),
        ('{"mine": "/models/that-is-not-there"}', "/models/that-is-not-there"),
        ('{"mine": "bundled:nothing"}', "'bundled:emoji'"),
        ('{"mine": "https://huggingface.co/a/b"}', "URL"),
    ],
)
def test_what_is_wrong_with_the_models_is_said_before_anything_starts(
    models: str, named: str, tmp_path: Path
):
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "expunge.embedded",
            "--data-dir",
            str(tmp_path / "data"),
            "--port",
            "0",
            "--workers",
            "0",
        ],
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "EXPUNGE_MODELS": models},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert named in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_signing_key_that_cannot_be_read_stops_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EXPUNGE_SIGNING_KEY", str(tmp_path / "nowhere.pem"))
    with pytest.raises(
        CannotStart, match=r"EXPUNGE_SIGNING_KEY: .*nowhere.pem cannot be read \(No such file or directory\)"
    ):
        check_settings()

"""What is installed, and how it is run: the audit tells a vulnerable package from a silent service; no container is more than it must be."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def audited(tmp_path: Path, *packages: dict[str, Any]) -> tuple[int, str]:
    """Exit code and words of the audit over a report of pip-audit's."""
    (tmp_path / "report.json").write_text(json.dumps({"dependencies": packages, "fixes": []}))
    done = subprocess.run([sys.executable, ROOT / ".ci" / "audit.py", tmp_path / "report.json"], capture_output=True, text=True)
    return done.returncode, done.stdout


def test_a_vulnerable_package_fails_the_audit_and_is_named(tmp_path: Path):
    bad = {"name": "x", "version": "1", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"], "description": ""}]}
    code, text = audited(tmp_path, {"name": "y", "version": "1", "vulns": []}, bad)
    assert code == 1
    assert "x 1: PYSEC-1, fixed in 2" in text


def test_packages_that_the_service_does_not_know_do_not_count_as_sound(tmp_path: Path):
    unknown = {"name": "x", "skip_reason": "Dependency not found on PyPI and could not be audited: x (1)"}
    code, text = audited(tmp_path, unknown)
    assert (code, "NOT AUDITED" in text) == (0, True)
    code, text = audited(tmp_path, unknown, {"name": "y", "version": "1", "vulns": []})
    assert (code, "1 of 2 packages" in text) == (0, True)


def test_the_gate_audits():
    assert "make audit" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_than_it_needs(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert any(mount.split(":")[0] == "/tmp" for mount in service["tmpfs"])
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert not any(str(volume).startswith(("/", ".", "~")) for volume in service.get("volumes", [])), "only named volumes"
    assert service.get("user", "image's own") not in ("root", "0", "0:0")


def test_only_the_api_is_published_and_only_to_this_machine_unless_told_otherwise():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]
    assert SERVICES["api"]["ports"] == ["${EXPUNGE_BIND:-127.0.0.1}:${EXPUNGE_PORT:-8000}:8000"]
    assert not any("network_mode" in service for service in SERVICES.values())


def test_redis_and_postgres_want_passwords_that_the_operator_must_set():
    command = SERVICES["redis"]["command"]
    assert command[command.index("--requirepass") + 1].startswith("${REDIS_PASSWORD:?")
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    secrets = re.findall(r"\$\{(\w*(?:PASSWORD|SECRET)\w*)(.{2})", (ROOT / "docker-compose.yml").read_text())
    assert secrets
    assert all(rest == ":?" for _, rest in secrets)


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.gpu"])
def test_an_image_runs_as_nobody_in_particular(file: str):
    text = (ROOT / file).read_text()
    last = text[text.rindex("\nFROM ") :]
    users = re.findall(r"(?m)^USER (\S+)", last)
    assert users == ["expunge"]
    assert re.search(r"useradd --system --uid 10001", last)
    assert last.index("USER expunge") < last.index("\nCMD ")
    assert not re.search(r"(?im)^(ADD|.*curl .*\|\s*sh|.*--privileged)", text)

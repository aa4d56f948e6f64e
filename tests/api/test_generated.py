"""Clients that others generate from openapi.json: every operation of it, compiled strictly, and used against
a running service.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.support.service import Tenant

DOCUMENT = Path(__file__).parents[2] / "openapi.json"
# Into a folder of its own: the generator asks for an older typer than the one that is shipped.
PYTHON = ("openapi-python-client==0.29.1", "typer==0.27.3", "ruamel.yaml==0.19.1")
NPM = ("openapi-typescript@7.13.0", "typescript@5.9.3")
pytestmark = pytest.mark.slow


def run(*command: str, folder: Path, **environment: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def operations() -> list[str]:
    return [
        op["operationId"]
        for item in json.loads(DOCUMENT.read_text())["paths"].values()
        for op in item.values()
    ]


def test_a_generated_python_client_has_every_operation_passes_mypy_and_does_a_job(
    tenant: Tenant, tmp_path: Path, monkeypatch
):
    tools, made = tmp_path / "tools", tmp_path / "made"
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tools),
        *PYTHON,
        folder=tmp_path,
    )
    path = os.pathsep.join([str(tools), os.environ.get("PYTHONPATH", "")])
    generate = "from openapi_python_client.cli import app; app()"
    where = ("--path", str(DOCUMENT), "--output-path", str(made), "--meta", "none", "--fail-on-warning")
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run(sys.executable, "-c", generate, "generate", *where, folder=tmp_path, PYTHONPATH=path, PATH=binaries)
    modules = {file.stem for file in made.glob("api/*/*.py")}
    assert modules >= set(operations())
    # The generator's own file, the same for every document
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-made.client]\nignore_errors = true\n")
    run(sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "made", folder=tmp_path)

    monkeypatch.syspath_prepend(str(tmp_path))
    models, types, client = (
        importlib.import_module(f"made.{name}") for name in ("models", "types", "client")
    )
    api = {
        file.stem: importlib.import_module(f"made.api.{file.parent.name}.{file.stem}")
        for file in made.glob("api/*/*.py")
    }
    with client.AuthenticatedClient(tenant.url, tenant.key()) as http:
        spec = models.EraseSpec(concepts=["church"], method=models.EsdSpec(name="esd", steps=3))
        job = api["create_erase_job"].sync(client=http, body=spec)
        assert (job.spec["concepts"][0]["name"], job.spec["method"]["steps"]) == ("church", 3)
        assert api["create_erase_job"].sync(client=http, body=spec, dry_run=True).dry_run is True
        assert [each.id for each in api["list_jobs"].sync(client=http).items] == [job.id]
        fence = tenant.claim(str(job.id))
        tenant.progress(str(job.id), fence, 4)
        assert api["get_job"].sync(job.id, client=http).progress.step == 4
        (file,) = tenant.publish(str(job.id), fence, {"a.bin": b"bytes"}, tmp_path)
        assert api["download_artifact"].sync(file.id, client=http).payload.read() == b"bytes"
        picture = BytesIO()
        Image.effect_noise((64, 64), 80).save(picture, "PNG")
        shown = api["upload_artifact"].sync(client=http, body=types.File(BytesIO(picture.getvalue())))
        assert (shown.name, shown.media_type) == ("image.png", "image/png")
        refused = api["create_erase_job"].sync(
            client=http, body=models.EraseSpec(concepts=["church", "churches"])
        )
        assert refused.code == "invalid_request"


USE = """
import type { components, paths } from "./api.js";
type Spec = paths["/jobs/erase"]["post"]["requestBody"]["content"]["application/json"];
type Job = components["schemas"]["Job"];
type Problem = components["schemas"]["Problem"];
const [url, key] = process.argv.slice(2);
const ask = async <T>(path: string, init: RequestInit = {}): Promise<T> => {
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  return (await (await fetch(url + path, { ...init, headers })).json()) as T;
};
const post = <T>(spec: Spec) => ask<T>("/jobs/erase", { method: "POST", body: JSON.stringify(spec) });
const plain: Spec = { concepts: ["church"] };
const job = await post<Job>(plain);
const again = await ask<Job>(`/jobs/${job.id}`);
const step: number = again.progress?.step ?? -1;
const files: number = again.artifacts.length;
const refused = await post<Problem>({
  concepts: [{ name: "dog", target: "dogs" }],
  method: { name: "age", steps: 3 },
});
const field = refused.errors?.[0]?.field;
const same = again.id === job.id;
console.log(JSON.stringify({ id: job.id, same, step, files, code: refused.code, field }));
"""
STRICT = {
    "strict": True,
    "target": "es2022",
    "module": "nodenext",
    "moduleResolution": "nodenext",
    "types": [],
    "lib": ["es2022", "dom"],
}


def test_generated_types_of_typescript_compile_at_the_generator_s_defaults_and_a_job_is_asked_for_with_them(
    tenant: Tenant, tmp_path: Path
):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("Node.js and npm are needed here: apt-get install npm")
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}')
    run(npm, "install", "--no-audit", "--no-fund", "--silent", *NPM, folder=tmp_path)
    run("node_modules/.bin/openapi-typescript", str(DOCUMENT), "-o", "api.d.ts", folder=tmp_path)
    types = (tmp_path / "api.d.ts").read_text()
    assert all(f"    {name}: {{" in types for name in operations())
    (tmp_path / "use.ts").write_text("declare const process: { argv: string[] };\n" + USE)
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": STRICT, "files": ["use.ts"]}))
    run("node_modules/.bin/tsc", "-p", ".", folder=tmp_path)
    found = json.loads(run("node", "use.js", tenant.url, tenant.key(), folder=tmp_path))
    (job,) = tenant.http().get("/jobs").json()["items"]
    assert found == {
        "id": job["id"],
        "same": True,
        "step": -1,
        "files": 0,
        "code": "invalid_request",
        "field": "concepts[0].target",
    }

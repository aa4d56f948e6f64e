"""One signing identity for a deployment: every worker signs with it, the service tells it, and `expunge
verify` takes what the service tells.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expunge.client.cli import app as cli
from expunge.core.delivery import manifest, signing
from expunge.core.delivery.verify import verify
from expunge.store import db, signing_keys
from expunge.store.server_secret import report
from expunge.store.settings import Settings
from expunge.worker.signing import load_signing_key
from tests.support.places import PYTHONPATH
from tests.support.service import serve
from tests.support.service_role import as_service

SECRET = "0123456789abcdef" * 4
ROOT = Path(__file__).parents[2]


def name(key) -> str:
    return signing.key_id(key.public_key())


def sealed(folder: Path, settings: Settings) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    manifest.seal(folder, {}, load_signing_key(settings))
    return folder


def command(settings: Settings, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {
        "EXPUNGE_DATABASE_URL": settings.database_url.get_secret_value(),
        "EXPUNGE_SECRET": SECRET,
        "PYTHONPATH": PYTHONPATH,
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("EXPUNGE_")}
    return subprocess.run(
        [sys.executable, "-m", "expunge.worker.signing", *arguments],
        env=inherited | given | environment,
        capture_output=True,
        text=True,
    )


def test_hosts_that_start_at_once_sign_with_one_key(settings):
    with ThreadPoolExecutor(8) as pool:
        assert len({name(key) for key in pool.map(load_signing_key, [settings] * 8)}) == 1
    with db.transaction(settings.database_url.get_secret_value()) as session:
        (row,) = signing_keys.list_keys(session)
        assert b"PRIVATE" not in row.sealed
        assert "PRIVATE" not in row.public_key


@pytest.mark.parametrize("form", ["file", "PEM", "PEM in one line"])
def test_a_key_of_the_operator_s_signs_on_every_host_and_is_told(settings, tmp_path: Path, form: str):
    own = signing.load_or_create(tmp_path / "own.pem")
    pem = (tmp_path / "own.pem").read_text()
    given = {"file": str(tmp_path / "own.pem"), "PEM": pem, "PEM in one line": pem.replace("\n", "\\n")}[form]
    theirs = settings.model_copy(update={"signing_key": type(settings.secret)(given)})
    assert name(load_signing_key(theirs)) == name(load_signing_key(theirs)) == name(own)
    with db.transaction(settings.database_url.get_secret_value()) as session:
        (row,) = signing_keys.list_keys(session)
    assert (row.id, row.sealed) == (name(own), None)


def test_a_file_that_is_not_there_is_not_made_but_refused_at_the_start(settings, tmp_path: Path):
    environment = {
        "EXPUNGE_SIGNING_KEY": str(tmp_path / "none.pem"),
        "EXPUNGE_SECRET": SECRET,
        "PYTHONPATH": PYTHONPATH,
    }
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "expunge.worker.app", "worker", "-c", "1"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "EXPUNGE_SIGNING_KEY" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none.pem").exists()


def test_a_receiver_asks_the_service_who_vouches(settings, postgres_url, tmp_path: Path):
    settings = settings.model_copy(update={"database_url": type(settings.secret)(as_service(postgres_url))})
    with serve(settings) as (url, _):
        nobody = CliRunner().invoke(cli, ["verify", str(tmp_path), "--url", url])
        assert nobody.exit_code == 2
        assert "has signed nothing yet" in nobody.output
        bundle = sealed(tmp_path / "bundle", settings)
        told = CliRunner().invoke(cli, ["verify", str(bundle), "--url", url, "--json"])
        found = json.loads(told.stdout)
        assert (told.exit_code, found["signature"]) == (0, "trusted")
        said = json.loads((bundle / "manifest.json").read_text())["signed_by"]
        assert said == found["key_id"]

        rotated = command(settings, "rotate")
        assert rotated.returncode == 0, rotated.stderr
        later = sealed(tmp_path / "later", settings)
        both = (
            CliRunner().invoke(cli, ["verify", str(bundle), "--url", url]).exit_code,
            verify(later, signed_keys(url)).signature,
        )
        assert both == (0, "trusted"), "what was signed before a rotation stays good"
        assert json.loads((later / "manifest.json").read_text())["signed_by"] != said

        assert command(settings, "revoke", said).returncode == 0
        assert verify(bundle, signed_keys(url)).signature == "invalid"
        assert verify(later, signed_keys(url)).signature == "trusted"
        assert command(settings, "revoke", "none").returncode == 2
        refused = CliRunner().invoke(cli, ["verify", str(later), "--url", "http://127.0.0.1:1"])
        assert refused.exit_code == 2


def signed_keys(url: str) -> bytes:
    import httpx

    answer = httpx.get(f"{url}/signing-keys")
    assert "PRIVATE" not in answer.text
    return answer.content


def test_a_key_of_one_host_becomes_the_deployment_s(settings, tmp_path: Path):
    own = signing.load_or_create(tmp_path / "host.pem")
    first = load_signing_key(settings)
    assert command(settings, "adopt", str(tmp_path / "host.pem")).returncode == 0
    assert name(load_signing_key(settings)) == name(own) != name(first)
    told = command(settings, "show").stdout
    assert f"{name(own)} signs" in told
    assert f"{name(first)} signed until" in told
    assert command(settings, "adopt", str(ROOT / "README.md")).returncode == 2


def test_the_key_outlives_a_rotation_of_the_secret(settings):
    first, secret = name(load_signing_key(settings)), type(settings.secret)
    new = settings.model_copy(
        update={"secret": secret("f1e2d3c4b5a69788" * 4), "secret_previous": settings.secret}
    )
    assert name(load_signing_key(new)) == first
    report(new, reseal=True)
    assert name(load_signing_key(new.model_copy(update={"secret_previous": secret("")}))) == first


def test_several_keys_in_one_file_are_all_taken(tmp_path: Path):
    keys = [signing.load_or_create(tmp_path / f"{n}.pem") for n in "ab"]
    both = b"# ours\n" + (tmp_path / "a.pem.pub").read_bytes() + (tmp_path / "b.pem.pub").read_bytes()
    (tmp_path / "bundle").mkdir()
    manifest.seal(tmp_path / "bundle", {}, keys[1])
    assert verify(tmp_path / "bundle", both).signature == "trusted"
    for bad in (b"{}", b'{"items": []}', b'{"items": [1]}', b"no key", b""):
        with pytest.raises(ValueError):  # noqa: PT011
            signing.load_publics(bad)

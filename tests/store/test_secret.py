"""EXPUNGE_SECRET: nothing starts without a proper one, each use has a key of its own, and it can be replaced
while the service runs.
"""

import hashlib
import hmac
import os
import secrets
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from expunge.api import signed_urls
from expunge.api.app import create_app
from expunge.store import encryption, keys, logs, webhooks
from expunge.store.errors import Unreadable
from expunge.store.server_secret import derive_key, find_weakness, report, secret_id
from expunge.store.settings import Settings, read
from tests.support.webhooks import Actor

ROOT = Path(__file__).parents[2]
OLD, NEW, THIRD = (secrets.token_hex(32) for _ in range(3))
PROCESSES = {
    "api": ["uvicorn", "expunge.api.app:create_app", "--factory", "--port", "0"],
    "loops": ["expunge.worker.loops"],
    "worker": [
        "celery",
        "-A",
        "expunge.worker.app",
        "worker",
        "-c",
        "1",
        "--without-gossip",
        "--without-mingle",
    ],
    "keys": ["expunge.store.keys", "tenant", "name"],
    "reseal": ["expunge.store.server_secret", "reseal"],
}


def start(process: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EXPUNGE_", "DATABASE_", "REDIS_"))
    }
    command = [sys.executable, "-m", *PROCESSES[process]]
    return subprocess.run(
        command, env=inherited | environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("process", PROCESSES)
def test_no_process_starts_without_a_secret(process: str):
    done = start(process)
    assert done.returncode != 0
    assert "EXPUNGE_SECRET is not set" in done.stderr
    assert "openssl rand -hex 32" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "weak",
    [
        "",
        " " * 40,
        "replace-me",
        "replace-me" * 4,
        "change_me_change_me_change_me_change_me",
        "short",
        "f" * 31,
        "x" * 40,
        "0" * 64,
        "ab" * 20,
        "1234567890" * 4,
        "abcdefghijkl" * 3,
        "a" * 40 + "b",
        "password-password-0123456789-qwertz",
        "example-secret-8402-fjdkqpwoeiruty",
    ],
)
def test_what_can_be_guessed_is_no_secret(weak: str, monkeypatch: pytest.MonkeyPatch):
    assert find_weakness(weak)
    monkeypatch.setenv("EXPUNGE_SECRET", weak)
    with pytest.raises(SystemExit, match="EXPUNGE_SECRET"):
        read()


def test_what_openssl_makes_is_a_secret():
    for _ in range(200):
        for made in (
            secrets.token_hex(16),
            secrets.token_hex(24),
            secrets.token_hex(32),
            secrets.token_urlsafe(24),
        ):
            assert find_weakness(made) is None


def test_an_app_made_in_code_needs_one_too():
    for weak in ("", "replace-me"):
        with pytest.raises(ValueError, match="EXPUNGE_SECRET"):
            create_app(Settings(secret=weak))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("EXPUNGE_DATABASE_URL", "postgresql://u:replace-me@h/d"),
        ("EXPUNGE_REDIS_URL", "redis://:change-me@h:1/0"),
    ],
)
def test_the_example_s_passwords_are_no_passwords(name: str, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXPUNGE_SECRET", NEW)
    monkeypatch.setenv(name, url)
    with pytest.raises(SystemExit, match=f"the password in {name} is a placeholder"):
        read()


@pytest.mark.parametrize(
    ("name", "value"),
    [("EXPUNGE_LEASE_SECONDS", "soon"), ("EXPUNGE_MODELS", "no json"), ("EXPUNGE_MAX_ATTEMPTS", "0")],
)
def test_a_variable_that_is_wrong_is_named_without_a_traceback(name: str, value: str):
    done = start("loops", EXPUNGE_SECRET=NEW, **{name: value})
    assert done.returncode == 1
    assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_each_use_has_a_key_of_its_own(tmp_path: Path):
    uses = ("api keys", "links", "logs", "signing keys")
    assert (
        len({derive_key(secret, use) for secret in (OLD, NEW) for use in uses} | {OLD.encode(), NEW.encode()})
        == 2 * len(uses) + 2
    )
    key, raw = keys.generate_key(), hmac.new(NEW.encode(), b"church", hashlib.sha256).hexdigest()
    assert keys.hash_key(key, NEW).split(".")[1] != keys.legacy_digest(key, NEW)
    assert not raw.startswith(logs.fingerprint(Settings(secret=NEW), "church"))
    assert NEW[:8] != secret_id(NEW)


# A rotation: OLD is replaced by NEW


def test_a_key_of_the_old_secret_opens_and_is_hashed_anew_when_it_is_used(session, tenant):
    row, key = keys.create(session, OLD, tenant.id, name="a")
    assert keys.authenticate(session, NEW, key) is None
    assert keys.count_under_other_secret(session, NEW) == 1
    assert keys.authenticate(session, NEW, key, [OLD]) is row
    assert keys.count_under_other_secret(session, NEW) == 0
    assert keys.authenticate(session, NEW, key) is row, "the old secret may go"
    assert keys.authenticate(session, THIRD, key, [OLD]) is None


def test_a_process_that_is_told_of_the_new_secret_first_knows_what_the_others_make(session, tenant):
    _, key = keys.create(session, NEW, tenant.id, name="a")
    assert keys.authenticate(session, OLD, key, [NEW]) is not None


def test_keys_that_the_release_before_has_made_open_and_ours_open_there(session, tenant):
    """It looks up `digest` alone, the HMAC under the secret itself."""
    row, key = keys.create(session, OLD, tenant.id, name="a")
    before = "select id from api_keys where digest = :digest"
    digest = hmac.new(OLD.encode(), key.encode(), hashlib.sha256).hexdigest()
    assert session.execute(text(before), {"digest": digest}).scalar_one() == row.id
    session.execute(text("update api_keys set hashed = null"))
    session.refresh(row)
    assert keys.authenticate(session, OLD, key) is row
    assert row.hashed == keys.hash_key(key, OLD)
    assert session.execute(text(before), {"digest": digest}).scalar_one() == row.id, "after its use here, too"


def test_a_link_of_the_old_secret_opens_until_it_ends():
    artifact, by = uuid.uuid4(), uuid.uuid4()
    path = signed_urls.create_link(OLD, artifact, by, datetime.now(UTC) + timedelta(minutes=5))
    path, _, query = path.partition("?")
    link = signed_urls.requested_link({"path": path, "query_string": query.encode(), "method": "GET"})
    assert link is not None
    assert signed_urls.is_valid(link, NEW, [OLD])
    assert not signed_urls.is_valid(link, NEW)
    assert not signed_urls.is_valid(link._replace(artifact_id=uuid.uuid4()), NEW, [OLD])
    assert not signed_urls.is_valid(link._replace(expires=0), NEW, [OLD])


@pytest.mark.parametrize("use", ["webhooks", "signing keys"])
def test_what_was_sealed_under_the_old_secret_is_read_and_sealed_anew(use):
    sealed = encryption.seal("whsec_x", OLD, use)
    assert encryption.unseal(sealed, NEW, [OLD], use) == "whsec_x"
    with pytest.raises(Unreadable, match="EXPUNGE_SECRET_PREVIOUS"):
        encryption.unseal(sealed, NEW, use=use)
    assert encryption.unseal(encryption.reseal(sealed, NEW, [OLD], use), NEW, use=use) == "whsec_x"
    assert encryption.reseal(sealed, NEW, [], use) == sealed, "what nobody can read is kept"


def test_what_is_sealed_for_one_use_is_not_read_as_another():
    with pytest.raises(Unreadable):
        encryption.unseal(encryption.seal("x", NEW, "webhooks"), NEW, use="signing keys")


def test_the_command_says_what_lies_under_the_old_secret_and_seals_anew_what_it_can(
    settings, session, tenant
):
    row, _ = keys.create(session, OLD, tenant.id, name="a")
    hook, told = webhooks.create(
        session,
        tenant.id,
        Actor(row.id),
        url="https://a.example",
        events=[],
        description="",
        enabled=True,
        secret=OLD,
    )
    _, told_later = webhooks.rotate(
        session, tenant.id, hook.id, Actor(row.id), secret=OLD, overlap=timedelta(days=1)
    )
    session.commit()
    rotating = settings.model_copy(
        update={name: type(settings.secret)(s) for name, s in (("secret", NEW), ("secret_previous", OLD))}
    )
    assert list(report(rotating, reseal=False).values())[:2] == [1, 1]
    assert list(report(rotating, reseal=True).values())[:2] == [1, 0]
    session.refresh(hook)
    assert (encryption.unseal(hook.sealed, NEW), encryption.unseal(hook.previous, NEW)) == (told_later, told)


def test_both_secrets_stay_out_of_the_log():
    clean = logs.Redact(Settings(secret=NEW, secret_previous=OLD))
    assert clean.text(f"{NEW} {OLD}") == "… …"

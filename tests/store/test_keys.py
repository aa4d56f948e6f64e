"""API keys."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import text

from expunge.store import keys
from expunge.store.errors import NotFound

SECRET = "0123456789abcdef" * 4


def test_key_opens_its_tenant_and_is_not_stored(session, tenant):
    _row, key = keys.create(session, SECRET, tenant.id, name="ci", scopes=["jobs:read"])
    found = keys.authenticate(session, SECRET, key)
    assert found is not None
    assert (found.tenant_id, found.scopes) == (tenant.id, ["jobs:read"])
    stored = session.execute(text("select row_to_json(api_keys)::text from api_keys")).scalar_one()
    assert key not in stored
    assert key[8:45] not in stored


def test_key_has_its_prefix_length_and_checksum():
    key = keys.generate_key()
    assert key.startswith("ex_live_")
    assert len(key) == 8 + 37 + 6
    assert keys.is_well_formed(key)
    other = "a" if key[20] != "a" else "b"
    assert not keys.is_well_formed(key[:20] + other + key[21:])
    assert not keys.is_well_formed("")
    assert not keys.is_well_formed(key + "é")


def test_key_under_another_secret_opens_nothing(session, tenant):
    _, key = keys.create(session, SECRET, tenant.id, name="ci")
    assert keys.authenticate(session, "x" * 32, key) is None


def test_weak_secret_is_refused():
    with pytest.raises(ValueError, match="EXPUNGE_SECRET"):
        keys.legacy_digest(keys.generate_key(), "short")


def test_revoked_and_expired_keys_open_nothing(session, tenant, other_tenant):
    row, key = keys.create(session, SECRET, tenant.id, name="a")
    with pytest.raises(NotFound):
        keys.revoke(session, other_tenant.id, row.id)
    assert keys.authenticate(session, SECRET, key) is not None
    revoked = keys.revoke(session, tenant.id, row.id).revoked_at
    assert keys.authenticate(session, SECRET, key) is None
    assert keys.revoke(session, tenant.id, row.id).revoked_at == revoked
    _, old = keys.create(session, SECRET, tenant.id, name="b", expires_in=timedelta(seconds=-1))
    assert keys.authenticate(session, SECRET, old) is None


def test_last_use_is_noted_once_a_minute(session, tenant):
    _row, key = keys.create(session, SECRET, tenant.id, name="a")
    session.commit()
    keys.authenticate(session, SECRET, key)
    session.commit()
    first = session.scalar(text("select last_used_at from api_keys"))
    keys.authenticate(session, SECRET, key)
    session.commit()
    assert first is not None
    assert session.scalar(text("select last_used_at from api_keys")) == first


def test_unknown_scope_is_named(session, tenant):
    with pytest.raises(ValueError, match="jobs:delete"):
        keys.create(session, SECRET, tenant.id, name="a", scopes=["jobs:delete"])


def test_the_command_makes_a_key_of_the_scopes_named(database_url, session):
    environment = {**os.environ, "EXPUNGE_DATABASE_URL": database_url, "EXPUNGE_SECRET": SECRET}
    command = [sys.executable, "-m", "expunge.store.keys", "acme", "custodian", "keys:read"]
    key = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    found = keys.authenticate(session, SECRET, key)
    assert found is not None
    assert (found.name, found.scopes) == ("custodian", ["keys:read"])
    every = subprocess.run(
        command[:-1], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert set(keys.authenticate(session, SECRET, every).scopes) == set(keys.SCOPES)
    refused = subprocess.run([*command, "root"], env=environment, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "keys:read" in refused.stderr

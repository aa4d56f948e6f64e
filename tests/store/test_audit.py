"""The audit trail, and who cannot change it."""

import uuid

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from expunge.store import audit, keys
from tests.support.webhooks import SECRET, Actor


@pytest.fixture
def actor(session, tenant) -> Actor:
    row, _ = keys.create(session, SECRET, tenant.id, name="ci")
    session.commit()
    return Actor(row.id)


@pytest.mark.parametrize(
    "statement",
    ["update audit set action = 'x'", "delete from audit", "truncate audit", "truncate tenants cascade"],
)
def test_no_row_can_be_changed_deleted_or_truncated(session, tenant, actor, statement: str):
    audit.record(session, tenant.id, actor, "job.created", uuid.uuid4(), kind="erase")
    session.commit()
    before = session.scalars(text("select row_to_json(audit)::text from audit order by id")).all()
    with pytest.raises(ProgrammingError, match="never changed nor deleted"):
        session.execute(text(statement))
    session.rollback()
    assert session.scalars(text("select row_to_json(audit)::text from audit order by id")).all() == before
    assert len(before) == 2  # the key's creation, and the job's


def test_the_reads_of_recovery_keys_cannot_be_changed_either(session, database_url):
    with pytest.raises(ProgrammingError, match="never changed nor deleted"):
        session.execute(text("truncate artifact_reads"))


def test_what_is_rolled_back_leaves_no_trace(session, tenant, actor):
    audit.record(session, tenant.id, actor, "job.created", uuid.uuid4())
    session.rollback()
    assert [row.action for row, _ in audit.list_entries(session, tenant.id)] == ["key.created"]


def test_pages_filters_and_tenants(session, tenant, other_tenant, actor):
    target = uuid.uuid4()
    for n in range(5):
        audit.record(session, tenant.id, actor, "job.created", target if n == 3 else uuid.uuid4(), n=n)
        session.commit()
    audit.record(session, other_tenant.id, None, "webhook.disabled", target)
    session.commit()
    seen, after = [], None
    while rows := audit.list_entries(session, tenant.id, action="job.created", after=after, limit=2):
        seen += [row.details["n"] for row, _ in rows]
        after = (rows[-1][0].created_at, rows[-1][0].id)
    assert seen == [4, 3, 2, 1, 0]
    [(found, name)] = audit.list_entries(session, tenant.id, target_id=target)
    assert (found.details["n"], name, found.address, found.request_id) == (3, "ci", "192.0.2.7", "request-1")
    [(disabled, nobody)] = audit.list_entries(session, other_tenant.id)
    assert (disabled.target_type, disabled.api_key_id, nobody) == ("webhook", None, None)


def test_the_operator_s_own_keys_are_in_the_trail_without_their_text(session, tenant):
    row, key = keys.create(session, SECRET, tenant.id, name="from the shell", scopes=["jobs:read"])
    keys.revoke(session, tenant.id, row.id)
    keys.revoke(session, tenant.id, row.id)
    found = {entry.action: entry for entry, _ in audit.list_entries(session, tenant.id)}
    assert set(found) == {"key.created", "key.revoked"}
    assert found["key.created"].details == {"name": "from the shell", "scopes": ["jobs:read"]}
    assert found["key.created"].api_key_id is None
    assert key not in str(found["key.created"].details)

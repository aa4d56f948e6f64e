"""The operator's commands for tenants: quotas and red team of one tenant, and its deletion.

`python -m expunge.store.tenants NAME [--max-active-jobs N|default …] [--red-team POLICY|default]`
`python -m expunge.store.tenants delete NAME`
"""

import argparse
import json
import sys
import time
import uuid
from typing import Any

from sqlalchemy import String, cast, delete, func, select, update
from sqlalchemy.orm import Session

from expunge.store import (
    artifacts,
    audit,
    blob_deletions,
    db,
    deployment,
    jobs,
    quarantine,
    queue_quotas,
    red_team,
    removal,
)
from expunge.store.errors import ForeignStore
from expunge.store.models import (
    ApiKey,
    Artifact,
    ArtifactRead,
    Idempotency,
    Job,
    Pause,
    Tenant,
    Usage,
    Webhook,
)
from expunge.store.queue_quotas import QUOTAS
from expunge.store.settings import Settings, read

DEFAULT = "default"
QUIET = {"synchronize_session": False}


def parse_quota(text: str) -> int | None:
    """A quota from the command line: a number, or None for `default`.

    Raises: ValueError.
    """
    if text == DEFAULT:
        return None
    if not text.isdecimal():
        raise ValueError(f"'{text}' is neither a number nor '{DEFAULT}'")
    return int(text)


def set_quotas(session: Session, name: str, changes: dict[str, int | str | None]) -> Tenant:
    """Give a tenant quotas or a red team of its own (None: the service's again); recorded in its audit.

    Raises: LookupError where there is no such tenant.
    """
    tenant = session.scalar(select(Tenant).where(Tenant.name == name).with_for_update(key_share=True))
    if tenant is None:
        raise LookupError(
            f"there is no tenant '{name}': python -m expunge.store.keys creates one with its first key"
        )
    for quota, value in changes.items():
        setattr(tenant, quota, value)
    session.flush()
    if changes:
        audit.record(session, tenant.id, None, "tenant.changed", tenant.id, **changes)
    return tenant


def lock_out(session: Session, name: str) -> Tenant | None:
    """Revoke a tenant's keys, delete its webhooks and cancel its jobs; may be repeated.

    Returns None when there is no such tenant.
    """
    tenant = session.scalar(select(Tenant).where(Tenant.name == name).with_for_update(key_share=True))
    if tenant is None:
        return None
    session.execute(
        update(ApiKey)
        .where(ApiKey.tenant_id == tenant.id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.now()),
        execution_options=QUIET,
    )
    session.execute(delete(Webhook).where(Webhook.tenant_id == tenant.id), execution_options=QUIET)
    tenant.red_team = red_team.OFF  # no policy makes it a new job meanwhile
    for job_id in session.scalars(
        select(Job.id).where(Job.tenant_id == tenant.id, removal.is_active(Job))
    ).all():
        jobs.cancel(session, tenant.id, job_id)
    return tenant


def delete_some_jobs(session: Session, tenant_id: uuid.UUID) -> int:
    """Delete a batch of a tenant's jobs, and schedule the deletion of their bytes; returns how many jobs."""
    ids = session.scalars(select(Job.id).where(Job.tenant_id == tenant_id).limit(removal.BATCH)).all()
    removal.delete_jobs(session, ids)
    return len(ids)


def delete_rest(session: Session, tenant_id: uuid.UUID) -> None:
    """Delete what is left of a tenant but the audit, and the rows of keys and recovery keys that it names.

    Those rows lose their names.
    """
    mine = Artifact.tenant_id == tenant_id
    # Waits for transactions that still add to the tenant
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update())
    stored = select(Artifact.key).where(mine, *artifacts.STORED)
    blob_deletions.schedule(session, session.scalars(stored).all())
    read = select(ArtifactRead.artifact_id)
    session.execute(delete(Artifact).where(mine, Artifact.id.not_in(read)), execution_options=QUIET)
    session.execute(
        update(Artifact).where(mine).values(name=removal.DELETED, info={}), execution_options=QUIET
    )
    for table in (Idempotency, Usage, Pause):
        session.execute(delete(table).where(table.tenant_id == tenant_id), execution_options=QUIET)
    digest = func.encode(func.sha256(func.convert_to(cast(ApiKey.id, String), "UTF8")), "hex")
    ended = func.coalesce(ApiKey.revoked_at, func.now())
    scrubbed: dict[str, Any] = {
        "name": removal.DELETED,
        "hint": "",
        "scopes": [],
        "digest": digest,
        "hashed": None,
        "revoked_at": ended,
    }
    session.execute(
        update(ApiKey).where(ApiKey.tenant_id == tenant_id).values(**scrubbed), execution_options=QUIET
    )
    session.execute(
        update(Tenant)
        .where(Tenant.id == tenant_id)
        .values(name=f"deleted {tenant_id}", deleted_at=func.now()),
        execution_options=QUIET,
    )
    audit.record(session, tenant_id, None, "tenant.deleted", tenant_id)


def delete_tenant(settings: Settings, name: str, *, wait: float = 60) -> None:
    """Delete a tenant's rows and stored objects, all but the audit. What was interrupted can be repeated.

    Raises: LookupError where there is no such tenant; TimeoutError while its jobs do not stop.
    """
    url, blobs = settings.database_url.get_secret_value(), deployment.open_store(settings)
    end = time.monotonic() + wait
    with db.transaction(url) as session:
        tenant = lock_out(session, name)
    if tenant is None:
        raise LookupError(f"there is no tenant '{name}'")
    # Wait for its running jobs
    while True:
        with db.transaction(url) as session:
            running = jobs.count_active(session, tenant.id)
        if not running:
            break
        if time.monotonic() > end:
            raise TimeoutError(
                f"{running} jobs of '{name}' have not stopped yet: repeat the command; its keys are revoked"
            )
        time.sleep(0.5)
    # Delete its rows, then the bytes
    while True:
        with db.transaction(url) as session:
            if not delete_some_jobs(session, tenant.id):
                break
    with db.transaction(url) as session:
        delete_rest(session, tenant.id)
    blob_deletions.delete_scheduled(url, blobs)
    quarantine.delete_of_tenant(blobs, tenant.id)


def main() -> None:
    """Show a tenant's quotas and red team, after setting what is given; or delete a tenant."""
    # delete TENANT
    if sys.argv[1:2] == ["delete"]:
        parser = argparse.ArgumentParser(
            prog="python -m expunge.store.tenants delete",
            description="Delete a tenant and all that is its own but the audit.",
        )
        parser.add_argument("tenant")
        try:
            delete_tenant(read(secret=False), parser.parse_args(sys.argv[2:]).tenant)
        except (LookupError, TimeoutError, ForeignStore) as error:
            parser.error(str(error.args[0]))
        return

    # TENANT [--quota N …]
    parser = argparse.ArgumentParser(
        description="Show a tenant's quotas and red team as JSON, after setting what is given."
    )
    parser.add_argument("tenant")
    for quota in QUOTAS:
        option = f"--{quota.replace('_', '-')}"
        parser.add_argument(
            option,
            type=parse_quota,
            default=argparse.SUPPRESS,
            metavar="N",
            help=f"a number, or '{DEFAULT}' for that of the service",
        )
    parser.add_argument(
        "--red-team",
        choices=[*red_team.POLICIES, DEFAULT],
        default=argparse.SUPPRESS,
        help="attacks on what is published, once they have grown",
    )
    given, settings = vars(parser.parse_args()), read(secret=False)
    if given.get("red_team") == DEFAULT:
        given["red_team"] = None
    try:
        with db.transaction(settings.database_url.get_secret_value()) as session:
            tenant = set_quotas(session, given.pop("tenant"), given)
            found = vars(queue_quotas.quotas_of(session, tenant.id, settings))
            found |= {"red_team": red_team.policy_of(session, tenant.id, settings)}
    except LookupError as error:
        parser.error(str(error.args[0]))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

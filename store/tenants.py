"""Tenants as the operator sees them: `python -m store.tenants NAME [--max-active-jobs N|default …]`."""

import argparse
import json
import sys

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import audit, quotas
from store.models import Tenant
from store.quotas import NAMES
from store.settings import read

DEFAULT = "default"


def number(text: str) -> int | None:
    """A quota as it is written: N, or `default`. ValueError."""
    if text == DEFAULT:
        return None
    if not text.isdecimal():
        raise ValueError(f"'{text}' is neither a number nor '{DEFAULT}'")
    return int(text)


def change(session: Session, name: str, changes: dict[str, int | None]) -> Tenant:
    """Give a tenant quotas of its own (None: the service's again); noted in its audit. LookupError."""
    tenant = session.scalar(select(Tenant).where(Tenant.name == name).with_for_update(key_share=True))
    if tenant is None:
        raise LookupError(f"there is no tenant '{name}': python -m store.keys makes one with its first key")
    for quota, value in changes.items():
        setattr(tenant, quota, value)
    session.flush()
    if changes:
        audit.record(session, tenant.id, None, "tenant.changed", tenant.id, **changes)
    return tenant


def main() -> None:
    """Show a tenant's quotas, after changing those that are given."""
    from store import db

    parser = argparse.ArgumentParser(description="Show a tenant's quotas as JSON, after changing those that are given.")
    parser.add_argument("tenant")
    for quota in NAMES:
        option = f"--{quota.replace('_', '-')}"
        parser.add_argument(option, type=number, default=argparse.SUPPRESS, metavar="N", help=f"a number, or '{DEFAULT}' for the service's")
    given, settings = vars(parser.parse_args()), read(secret=False)
    try:
        with db.transaction(settings.database_url.get_secret_value()) as session:
            tenant = change(session, given.pop("tenant"), given)
            found = quotas.of(session, tenant.id, settings)
    except LookupError as error:
        parser.error(str(error.args[0]))
    sys.stdout.write(json.dumps(vars(found)) + "\n")


if __name__ == "__main__":
    main()

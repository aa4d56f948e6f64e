"""Where the sweep puts what no row names, for EXPUNGE_QUARANTINE_DAYS: `python -m expunge.store.quarantine
show|restore|take`.

A key of today's goes to quarantine/2026-11-27/KEY. `restore` puts it back; `take` is a sweep without its
bound, for an operator who has looked.
"""

import argparse
import json
import re
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import func, select

from expunge.store import artifacts, db, deployment
from expunge.store.blobs import LAYOUT, QUARANTINE, Blobs
from expunge.store.errors import ForeignStore
from expunge.store.settings import Settings, read

# What one sweep may set aside: so many objects, or this share of all, whichever is more
AT_LEAST, SHARE = (20, 0.05)
ASIDE = re.compile(rf"{QUARANTINE}(\d{{4}}-\d\d-\d\d)/({LAYOUT.pattern})")


@dataclass
class SweepResult:
    """What a sweep found among the objects of this database's tenants, and whether it set it aside."""

    objects: int = 0
    orphans: int = 0
    taken: bool = False

    @property
    def bound(self) -> int:
        return max(AT_LEAST, int(SHARE * self.objects))


def earlier_clock(settings: Settings) -> datetime:
    """The time, by this host's clock or the database's: the one that is behind, so that a clock that runs
    ahead makes nothing old.
    """
    with db.transaction(settings.database_url.get_secret_value()) as session:
        return min(datetime.now(UTC), session.scalars(select(func.now())).one())


def list_orphans(settings: Settings, blobs: Blobs, age: timedelta) -> Iterator[tuple[int, list[str]]]:
    """Page by page of the store: how many objects are ours, and which of them are older than `age`, and named
    by no row.
    """
    before = earlier_clock(settings) - age
    for page in blobs.pages():
        # After the listing: what was stored since is not in it
        with db.transaction(settings.database_url.get_secret_value()) as session:
            ours = artifacts.find_own(session, [key for key, _ in page])
            yield (
                len(ours),
                artifacts.find_orphans(session, [key for key, at in page if key in ours and at < before]),
            )


def sweep(settings: Settings, blobs: Blobs, *, bounded: bool = True) -> SweepResult:
    """Set aside what no row names, unless that is more than one sweep may take.

    Two listings, so that all are counted before one is touched.
    """
    age, found = timedelta(seconds=settings.sweep_after_seconds), SweepResult()
    for objects, keys in list_orphans(settings, blobs, age):
        found.objects += objects
        found.orphans += len(keys)
    if found.orphans and not (bounded and found.orphans > found.bound):
        found.taken, day = True, f"{earlier_clock(settings):%Y-%m-%d}"
        for _, keys in list_orphans(settings, blobs, age):
            for key in keys:
                blobs.move(key, f"{QUARANTINE}{day}/{key}")
    return found


def list_quarantined(blobs: Blobs) -> Iterator[list[tuple[str, date, str]]]:
    """(key in quarantine, since when, key before), page by page; what else lies there is not ours."""
    for page in blobs.pages(QUARANTINE):
        yield [
            (key, date.fromisoformat(match[1]), match[2])
            for key, _ in page
            if (match := ASIDE.fullmatch(key))
        ]


def purge(settings: Settings, blobs: Blobs) -> int:
    """Delete what has lain here for its days; what a row names by now, as after a database was restored, goes
    back at once. How many are deleted.
    """
    last, gone = (earlier_clock(settings) - timedelta(days=settings.quarantine_days)).date(), 0
    for page in list_quarantined(blobs):
        found, due = (
            {before: key for key, _, before in page},
            [before for _, since, before in page if since <= last],
        )
        with db.transaction(settings.database_url.get_secret_value()) as session:
            unnamed = artifacts.find_orphans(session, due)
            named = artifacts.find_referenced(session, list(found))
        for before in named:
            blobs.move(found[before], before)
        blobs.delete([found[before] for before in unnamed])
        gone += len(unnamed)
    return gone


def delete_of_tenant(blobs: Blobs, tenant_id: uuid.UUID) -> None:
    """Delete all that lies under a tenant's keys, set aside or not."""
    for page in blobs.pages(f"{tenant_id}/"):
        blobs.delete([key for key, _ in page if LAYOUT.fullmatch(key)])
    for set_aside in list_quarantined(blobs):
        blobs.delete([key for key, _, before in set_aside if before.startswith(f"{tenant_id}/")])


def restore(blobs: Blobs, since: date | None = None) -> int:
    """Put back what was set aside (`since` that day). How many objects."""
    back = 0
    for page in list_quarantined(blobs):
        for key, day, before in page:
            if since is None or day >= since:
                blobs.move(key, before)
                back += 1
    return back


def main() -> None:
    """`python -m expunge.store.quarantine`."""
    parser = argparse.ArgumentParser(
        description="Stored objects that no row named and that a sweep has set aside."
    )
    parser.add_argument(
        "action",
        choices=("show", "restore", "take"),
        help="take: sweep now, however many objects that sets aside",
    )
    parser.add_argument(
        "--since",
        type=date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="with restore: only what was set aside from this day on",
    )
    given, settings = parser.parse_args(), read(secret=False)
    try:
        blobs = deployment.open_store(settings)
    except ForeignStore as error:
        parser.error(str(error))
    if given.action == "restore":
        shown: dict[str, object] = {"restored": restore(blobs, given.since)}
    elif given.action == "take":
        shown = vars(sweep(settings, blobs, bounded=False))
    else:
        shown = dict(Counter(str(day) for page in list_quarantined(blobs) for _, day, _ in page))
    sys.stdout.write(json.dumps(shown) + "\n")


if __name__ == "__main__":
    main()

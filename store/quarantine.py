"""Where the sweep moves stored objects without a row, for EXPUNGE_QUARANTINE_DAYS.

An object KEY is moved to quarantine/2026-11-27/KEY, by the day. `python -m expunge.store.quarantine
show|restore|take`: `restore` moves objects back; `take` is a sweep without the limit on how many it moves,
for an operator who has checked them.
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

# What one sweep may move: this many objects, or this share of all, whichever is more
AT_LEAST, SHARE = (20, 0.05)
ASIDE = re.compile(rf"{QUARANTINE}(\d{{4}}-\d\d-\d\d)/({LAYOUT.pattern})")


@dataclass
class SweepResult:
    """What a sweep found among the objects of this database's tenants, and whether it moved the orphans."""

    objects: int = 0
    orphans: int = 0
    taken: bool = False

    @property
    def bound(self) -> int:
        return max(AT_LEAST, int(SHARE * self.objects))


def earlier_clock(settings: Settings) -> datetime:
    """The time by this host's clock or the database's, whichever is behind: a fast one makes nothing old."""
    with db.transaction(settings.database_url.get_secret_value()) as session:
        return min(datetime.now(UTC), session.scalars(select(func.now())).one())


def list_orphans(settings: Settings, blobs: Blobs, age: timedelta) -> Iterator[tuple[int, list[str]]]:
    """For each page of the store: how many objects are ours, and which of them are old and have no row."""
    before = earlier_clock(settings) - age
    for page in blobs.list_pages():
        # Asked after the listing, which does not hold what was stored since
        with db.transaction(settings.database_url.get_secret_value()) as session:
            ours = artifacts.find_own(session, [key for key, _ in page])
            yield (
                len(ours),
                artifacts.find_orphans(session, [key for key, at in page if key in ours and at < before]),
            )


def sweep(settings: Settings, blobs: Blobs, *, bounded: bool = True) -> SweepResult:
    """Move objects without a row to quarantine, unless they are more than one sweep may move.

    The store is listed twice, so that all are counted before one is moved.
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
    """(key in quarantine, since when, key before), in pages; other objects there are not ours."""
    for page in blobs.list_pages(QUARANTINE):
        yield [
            (key, date.fromisoformat(match[1]), match[2])
            for key, _ in page
            if (match := ASIDE.fullmatch(key))
        ]


def purge(settings: Settings, blobs: Blobs) -> int:
    """Delete objects that were in quarantine for its days, and return how many.

    An object that has a row again, as after a database was restored, is moved back at once.
    """
    last, deleted = (earlier_clock(settings) - timedelta(days=settings.quarantine_days)).date(), 0
    for page in list_quarantined(blobs):
        found = {before: key for key, _, before in page}
        due = [before for _, since, before in page if since <= last]
        with db.transaction(settings.database_url.get_secret_value()) as session:
            orphans = artifacts.find_orphans(session, due)
            referenced = artifacts.find_referenced(session, list(found))
        for before in referenced:
            blobs.move(found[before], before)
        blobs.delete([found[before] for before in orphans])
        deleted += len(orphans)
    return deleted


def delete_of_tenant(blobs: Blobs, tenant_id: uuid.UUID) -> None:
    """Delete all objects of a tenant, those in quarantine too."""
    for page in blobs.list_pages(f"{tenant_id}/"):
        blobs.delete([key for key, _ in page if LAYOUT.fullmatch(key)])
    for quarantined in list_quarantined(blobs):
        blobs.delete([key for key, _, before in quarantined if before.startswith(f"{tenant_id}/")])


def restore(blobs: Blobs, since: date | None = None) -> int:
    """Move objects back out of quarantine, and return how many; `since`: only those of that day and later."""
    restored = 0
    for page in list_quarantined(blobs):
        for key, day, before in page:
            if since is None or day >= since:
                blobs.move(key, before)
                restored += 1
    return restored


def main() -> None:
    """`python -m expunge.store.quarantine`."""
    parser = argparse.ArgumentParser(
        description="Show, restore or add stored objects that have no row and were moved to quarantine."
    )
    parser.add_argument(
        "action",
        choices=("show", "restore", "take"),
        help="take: sweep now, however many objects that moves",
    )
    parser.add_argument(
        "--since",
        type=date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="with restore: only what was moved on this day or later",
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

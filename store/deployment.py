"""Which database and which artifact store belong together: the database has an id, the store a marker object
with the same one.

Whoever writes to the store or deletes from it asks here first. A store that is empty is marked; one that
holds objects is marked only when it holds what this database's rows name. So an empty or wrong
EXPUNGE_DATABASE_URL, somebody else's bucket, or a volume that is not mounted costs nobody a byte.
"""

import argparse
import json
import sys
import uuid
from functools import lru_cache

import obstore
from obstore.exceptions import AlreadyExistsError
from pydantic import SecretStr
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from expunge.store import artifacts, db
from expunge.store.blobs import MARKER, Blobs
from expunge.store.errors import ForeignStore, NotFound
from expunge.store.models import Deployment
from expunge.store.settings import Settings, read

SAMPLE = 20  # rows whose objects are looked for in a store without a marker
ADOPT = "python -m expunge.store.deployment adopt"


def get_deployment(session: Session) -> Deployment:
    """This database's row, written when there is none."""
    session.execute(insert(Deployment).values(one=True).on_conflict_do_nothing())
    return session.scalars(select(Deployment)).one()


def read_marker(blobs: Blobs) -> uuid.UUID | None:
    """The deployment that the store's marker names; None without a marker.

    Raises: ForeignStore where the marker cannot be read.
    """
    try:
        return uuid.UUID(json.loads(bytes(obstore.get(blobs.store, MARKER).bytes()))["deployment"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ForeignStore(
            f"{MARKER} in EXPUNGE_ARTIFACTS_URL was not written by Expunge: give it a store, or a prefix, of"
            " its own"
        ) from error


def write_marker(blobs: Blobs, id_: uuid.UUID, *, over: bool = False) -> None:
    """Write the marker, unless there is one; `over`: replace that."""
    try:
        obstore.put(
            blobs.store,
            MARKER,
            json.dumps({"deployment": str(id_)}).encode(),
            mode="overwrite" if over else "create",
            use_multipart=False,
        )
    except AlreadyExistsError:
        return


def open_store(settings: Settings) -> Blobs:
    """The artifact store, once it is sure to be this database's.

    Raises: ForeignStore.
    """
    blobs, url = Blobs(settings.artifacts_url), settings.database_url.get_secret_value()
    with db.transaction(url) as session:
        mine = get_deployment(session)
        known = artifacts.list_newest_keys(session, SAMPLE)
    found = read_marker(blobs)
    if found is None:
        try:
            check_unmarked(settings, blobs, mine, known)
        except ForeignStore:
            # Another process of this deployment may have marked it meanwhile, and stored objects
            if read_marker(blobs) is None:
                raise
        else:
            write_marker(blobs, mine.id)
        found = read_marker(blobs)
    if found != mine.id:
        raise ForeignStore(
            f"EXPUNGE_ARTIFACTS_URL ({settings.artifacts_url}) is the store of deployment {found}, and"
            f" EXPUNGE_DATABASE_URL the database of deployment {mine.id}: set the two that belong together."
            f" Only if the store is to be this database's from now on, and no other's: {ADOPT}"
        )
    if mine.store_url != settings.artifacts_url:
        with db.transaction(url) as session:
            session.execute(update(Deployment).values(store_url=settings.artifacts_url))
    return blobs


@lru_cache
def open_store_of(database_url: str, artifacts_url: str) -> Blobs:
    return open_store(Settings(database_url=SecretStr(database_url), artifacts_url=artifacts_url))


def open_store_cached(settings: Settings) -> Blobs:
    """Like `open_store`, but checked once in a process, and again when a directory has lost its marker.

    That happens when a volume is unmounted.

    Raises: ForeignStore.
    """
    url = settings.database_url.get_secret_value()
    blobs = open_store_of(url, settings.artifacts_url)
    if blobs.folder is not None and not (blobs.folder / MARKER).exists():
        open_store_of.cache_clear()
        blobs = open_store_of(url, settings.artifacts_url)
    return blobs


def check_unmarked(settings: Settings, blobs: Blobs, mine: Deployment, known: list[str]) -> None:
    """Decide whether a store without a marker may become this database's own.

    Raises: ForeignStore where it may not.
    """
    if mine.store_url == settings.artifacts_url:
        raise ForeignStore(
            f"EXPUNGE_ARTIFACTS_URL ({settings.artifacts_url}) has lost its marker {MARKER}: is the volume"
            " mounted, is it the right bucket? If the objects are there, or all were deleted on purpose:"
            f" {ADOPT}"
        )
    if next(iter(blobs.list_pages()), []) and not any(exists(blobs, key) for key in known):
        what = "none of those that this database names" if known else "this database names none"
        raise ForeignStore(
            f"EXPUNGE_ARTIFACTS_URL ({settings.artifacts_url}) has no marker and holds objects, but {what}:"
            " set the store and the EXPUNGE_DATABASE_URL that belong together, or an empty directory or"
            f" prefix. Only if what is there may be swept as this database's own: {ADOPT}"
        )


def exists(blobs: Blobs, key: str) -> bool:
    try:
        blobs.size(key)
    except NotFound:
        return False
    return True


def main() -> None:
    """`python -m expunge.store.deployment show|adopt|renew`."""
    parser = argparse.ArgumentParser(
        description="Show or set which deployment a database and a store are of."
    )
    parser.add_argument(
        "action",
        choices=("show", "adopt", "renew"),
        help=(
            "show: both ids; adopt: mark the store as this database's, whatever it was before; renew: give"
            " this database a new id, as a copy of another database needs"
        ),
    )
    given, settings = parser.parse_args(), read(secret=False)
    blobs = Blobs(settings.artifacts_url)
    with db.transaction(settings.database_url.get_secret_value()) as session:
        mine = get_deployment(session)
        if given.action == "renew":
            session.execute(update(Deployment).values(id=func.gen_random_uuid(), store_url=None))
            session.refresh(mine)
        elif given.action == "adopt":
            write_marker(blobs, mine.id, over=True)
            mine.store_url = settings.artifacts_url
        shown = {"database": str(mine.id), "store": str(read_marker(blobs) or "") or None}
    sys.stdout.write(json.dumps(shown) + "\n")


if __name__ == "__main__":
    main()

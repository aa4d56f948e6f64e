"""What lies in an artifact store."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from expunge.store.blobs import MARKER, QUARANTINE, Blobs


def keys_older_than(blobs: Blobs, age: timedelta) -> Iterator[str]:
    """Keys of the objects that were stored longer ago than `age`, without marker and quarantine."""
    before = datetime.now(UTC) - age
    for page in blobs.list_pages():
        for key, at in page:
            if at < before and key != MARKER and not key.startswith(QUARANTINE):
                yield key

"""What may go wrong between a caller and the store."""


class StoreError(Exception):
    """Base of the store's errors."""


class NotFound(StoreError):
    """The tenant has no such row."""


class KeyReused(StoreError):
    """The Idempotency-Key was used with another request."""


class KeyInFlight(StoreError):
    """A request with the same Idempotency-Key is still being answered."""


class NotFinished(StoreError):
    """The job has not ended: it cannot be retried or deleted."""


class LostLease(StoreError):
    """Another attempt holds this job now: nothing more may be written for it."""


class CancelRequested(StoreError):
    """The job is being cancelled: it cannot be published."""


class CorruptBlob(StoreError):
    """Stored bytes do not match their sha256."""


class ForeignStore(StoreError):
    """The artifact store is not known to be this database's: nothing is read, written or deleted there."""


class BlobExists(StoreError):
    """The storage key is in use; a stored object is never overwritten."""


class Unreadable(StoreError):
    """An encrypted secret was encrypted under another server secret."""

    code = "secret_unreadable"


class WrongState(StoreError):
    """The row's state does not allow this; the message says what to do instead."""


class QuotaExceeded(StoreError):
    """The tenant has used up a quota; the message says what helps."""

    def __init__(self, quota: str, limit: int, remedy: str, *, wait: int, window: int | None = None) -> None:
        """`wait`: seconds after which a repeated request may succeed; `window`: seconds that a quota of time
        counts.
        """
        super().__init__(f"You have reached {quota} ({limit}): {remedy}")
        self.quota, self.limit, self.wait, self.window = quota, limit, wait, window

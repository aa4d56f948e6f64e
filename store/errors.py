"""What may go wrong between a caller and the store; each error says its code."""


class StoreError(Exception):
    """Base of the store's errors."""

    code = "store_error"


class NotFound(StoreError):
    """No such row for this tenant."""

    code = "not_found"


class KeyReused(StoreError):
    """The Idempotency-Key came with another body before."""

    code = "idempotency_key_reused"


class KeyInFlight(StoreError):
    """A request with the same Idempotency-Key is still at work."""

    code = "idempotency_key_in_flight"


class NotFinished(StoreError):
    """Only a finished job can be retried."""

    code = "job_not_finished"


class LostLease(StoreError):
    """Another attempt holds this job now: nothing more may be written for it."""

    code = "lost_lease"


class CancelRequested(StoreError):
    """The job is being cancelled: it cannot be published."""

    code = "cancel_requested"


class CorruptBlob(StoreError):
    """Stored bytes do not match their sha256."""

    code = "artifact_corrupt"


class ForeignStore(StoreError):
    """The artifact store is not known to be this database's: nothing is read, written or deleted there."""

    code = "foreign_store"


class BlobExists(StoreError):
    """The key is taken; a stored object is never overwritten."""

    code = "blob_exists"


class Unreadable(StoreError):
    """A sealed secret does not open under the server's own."""

    code = "secret_unreadable"


class WrongState(StoreError):
    """The row's state does not allow this; the message says what would."""

    code = "wrong_state"


class QuotaExceeded(StoreError):
    """A quota of the tenant is used up: its name and size, what would help, after how many seconds;
    `window` in seconds where it is one of time.
    """

    code = "quota_exceeded"

    def __init__(self, quota: str, limit: int, remedy: str, *, wait: int, window: int | None = None) -> None:
        super().__init__(f"{quota} is {limit}, and so many {remedy}")
        self.quota, self.limit, self.wait, self.window = quota, limit, wait, window

    @property
    def headers(self) -> dict[str, str]:
        """Of the 429; the RateLimit fields are those of the IETF's draft."""
        window = "" if self.window is None else f";w={self.window}"
        policy, left = f'"{self.quota}";q={self.limit}{window}', f'"{self.quota}";r=0;t={self.wait}'
        return {"Retry-After": str(self.wait), "RateLimit-Policy": policy, "RateLimit": left}

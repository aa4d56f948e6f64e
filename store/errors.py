"""What may go wrong between a caller and the store."""


class StoreError(Exception):
    """Base of the store's errors."""


class NotFound(StoreError):
    """No such row for this tenant."""


class KeyReused(StoreError):
    """The Idempotency-Key came with another body before."""


class KeyInFlight(StoreError):
    """A request with the same Idempotency-Key is still at work."""


class NotFinished(StoreError):
    """Only a finished job can be retried."""


class LostLease(StoreError):
    """Another attempt holds this job now: nothing more may be written for it."""


class CancelRequested(StoreError):
    """The job is being cancelled: it cannot be published."""


class CorruptBlob(StoreError):
    """Stored bytes do not match their sha256."""


class ForeignStore(StoreError):
    """The artifact store is not known to be this database's: nothing is read, written or deleted there."""


class BlobExists(StoreError):
    """The key is taken; a stored object is never overwritten."""


class Unreadable(StoreError):
    """A sealed secret does not open under the server's own."""

    code = "secret_unreadable"


class WrongState(StoreError):
    """The row's state does not allow this; the message says what would."""


class QuotaExceeded(StoreError):
    """A quota of the tenant is used up: its name and size, what would help, after how many seconds;
    `window` in seconds where it is one of time.
    """

    def __init__(self, quota: str, limit: int, remedy: str, *, wait: int, window: int | None = None) -> None:
        super().__init__(f"{quota} is {limit}, and so many {remedy}")
        self.quota, self.limit, self.wait, self.window = quota, limit, wait, window

    @property
    def headers(self) -> dict[str, str]:
        """Of the 429; the RateLimit fields are those of the IETF's draft."""
        window = "" if self.window is None else f";w={self.window}"
        policy, left = f'"{self.quota}";q={self.limit}{window}', f'"{self.quota}";r=0;t={self.wait}'
        return {"Retry-After": str(self.wait), "RateLimit-Policy": policy, "RateLimit": left}

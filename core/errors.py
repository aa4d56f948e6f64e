"""The error by which `core` tells a caller that a job cannot continue."""


class CoreError(Exception):
    """Why a job cannot continue.

    `code` is stable, `message` is for people, `field` names the part of the spec at fault; `retryable` says
    whether the same job may succeed when it is run again.
    """

    def __init__(self, code: str, message: str, *, field: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retryable = retryable

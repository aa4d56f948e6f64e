"""The one error a caller of `core` must know."""


class CoreError(Exception):
    """A job cannot go on; `code` is stable, `message` is for people, `field` names the part of the spec at
    fault.
    """

    def __init__(self, code: str, message: str, *, field: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.field, self.retryable = code, message, field, retryable

"""The caller of a request: which tenant, which API key, with which scopes."""

import uuid
from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """The tenant and the API key that a request comes from."""

    tenant_id: uuid.UUID
    key_id: uuid.UUID
    scopes: frozenset[str]
    address: str | None = None
    request_id: str = ""

    def may(self, scope: str) -> bool:
        """Whether the key has this scope; `admin` includes all others."""
        return scope in self.scopes or "admin" in self.scopes

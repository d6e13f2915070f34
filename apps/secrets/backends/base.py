"""What a store of secrets must do."""

from typing import Protocol
from uuid import UUID


class SecretStore(Protocol):
    """Keeps secret values; the row of a secret holds only what `put` returned."""

    def put(self, plain: str, *, organization_id: UUID, secret_id: UUID) -> str:
        """Keep a value, in place of an earlier one of the same secret; returns what the row shall hold."""
        ...

    def get(self, value: str, *, organization_id: UUID, secret_id: UUID) -> str:
        """The plain value behind what a row holds; raises BackendError if it cannot be opened there."""
        ...

    def forget(self, value: str, *, organization_id: UUID, secret_id: UUID) -> None:
        """Destroy the value, if it lies outside the row."""
        ...

"""The default store: the value itself, sealed, in its row."""

from uuid import UUID

from apps.core.sealing import seal, unseal

_FIELD = "secret.value"


class SealedStore:
    """Seals values with this installation's keys; a value opens only in its own row and organisation."""

    def put(self, plain: str, *, organization_id: UUID, secret_id: UUID) -> str:
        """The sealed value."""
        return seal(plain, organization_id=organization_id, record_id=secret_id, field=_FIELD)

    def get(self, value: str, *, organization_id: UUID, secret_id: UUID) -> str:
        """The plain value; raises BackendError when its key is missing, or when it was changed or moved."""
        return unseal(value, organization_id=organization_id, record_id=secret_id, field=_FIELD)

    def forget(self, value: str, *, organization_id: UUID, secret_id: UUID) -> None:
        """Nothing lies outside the row."""

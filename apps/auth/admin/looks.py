"""How people and keys look on staff pages."""

from django.utils import timezone
from django.utils.safestring import SafeString

from apps.auth.models import ApiKey, Role
from apps.core.staff import badge
from apps.core.staff.display import Tone

ROLE_TONES: dict[str, Tone] = {Role.OWNER: "info", Role.ADMIN: "info"}


def role_badge(role: str) -> SafeString:
    """What a member is."""
    return badge(Role(role).label, ROLE_TONES.get(role, "quiet"))


def key_state(key: ApiKey) -> SafeString:
    """Whether a key opens anything."""
    if key.revoked_at:
        return badge("Revoked", "bad")
    if key.expires_at and key.expires_at <= timezone.now():
        return badge("Expired", "warn")
    return badge("Active", "good")

"""How servers and capabilities look on staff pages."""

from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.core.staff import badge, milliseconds
from apps.core.staff.display import Tone
from apps.registry.models import Capability, Environment, Health, Risk, Server
from apps.registry.schemas import BreakerOut

HEALTH_TONES: dict[str, Tone] = {
    Health.HEALTHY: "good",
    Health.DEGRADED: "warn",
    Health.UNHEALTHY: "bad",
    Health.UNKNOWN: "quiet",
}
BREAKER_LOOKS: dict[str, tuple[str, Tone]] = {
    "closed": ("Calls pass", "good"),
    "half_open": ("Next call probes", "warn"),
    "open": ("Calls are refused", "bad"),
}
RISK_TONES: dict[str, Tone] = {Risk.LOW: "good", Risk.MEDIUM: "warn", Risk.HIGH: "bad"}
ENVIRONMENT_TONES: dict[str, Tone] = {Environment.PRODUCTION: "info"}


def health_badge(health: str, message: str = "") -> SafeString:
    """How it fared when it was last checked."""
    return badge(Health(health).label, HEALTH_TONES[health], title=message)


def took(latency_ms: float | None) -> SafeString:
    """A latency, the number never apart from its unit."""
    return format_html('<span class="gh-time">{}</span>', milliseconds(latency_ms))


def breaker_badge(breaker: BreakerOut) -> SafeString:
    """Whether the process that answers lets calls through to the server."""
    label, tone = BREAKER_LOOKS[breaker.state]
    return badge(label, tone)


def server_state(server: Server) -> SafeString:
    """Whether agents may use the server, and if not, why not."""
    if server.deleted_at:
        return badge("Removed", "quiet")
    if not server.is_approved:
        return badge("Waiting for approval", "warn")
    return badge("Approved", "good") if server.is_enabled else badge("Disabled", "quiet")


def capability_state(capability: Capability) -> SafeString:
    """Whether agents may use the capability, and if not, why not."""
    if capability.removed_at:
        return badge("No longer offered", "quiet")
    if not capability.approved_digest:
        return badge("New", "warn")
    if not capability.is_approved:
        return badge("Changed", "bad", title="Its definition differs from the approved one.")
    return badge("Approved", "good") if capability.is_enabled else badge("Disabled", "quiet")


def warning_badge(capability: Capability) -> SafeString | str:
    """How many warnings the definition gave."""
    count = len(capability.warnings or [])
    return badge(f"{count} warning{'s' if count > 1 else ''}", "bad", icon="warning") if count else ""


def environment_badge(environment: str) -> SafeString:
    """What a server is used for."""
    return badge(Environment(environment).label, ENVIRONMENT_TONES.get(environment, "quiet"))


def risk_badge(risk: str) -> SafeString:
    """What a capability could do at worst."""
    return badge(f"{Risk(risk).label} risk", RISK_TONES[risk])

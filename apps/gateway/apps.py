from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """The guarded road: carries calls from agents to native tools and upstream servers."""

    name = "apps.gateway"
    label = "gateway"
    verbose_name = "Gateway"
    permissions = {
        "bundle.read": "See bundles, what is in them, and how agents' programs are connected to them.",
        "bundle.write": "Make, change and remove bundles.",
    }

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """The guarded road: carries calls from agents to native tools and upstream servers."""

    name = "apps.gateway"
    label = "gateway"
    verbose_name = "Gateway"

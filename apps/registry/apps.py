from django.apps import AppConfig


class RegistryConfig(AppConfig):
    """Servers we know: MCP servers, their capabilities, their health, and how to reach them."""

    name = "apps.registry"
    label = "registry"
    verbose_name = "Servers"
    permissions = {
        "server.read": "See servers, their capabilities and their health.",
        "server.write": "Register, change and remove servers; discover their capabilities.",
        "server.check": "Check a server's health and test its connection.",
        "server.approve": "Let agents use a server and the capabilities it has now.",
    }
    schedule = {"registry.check_due": 15.0}

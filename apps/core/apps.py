from django.apps import AppConfig


class CoreConfig(AppConfig):
    """The ground that every other app stands on."""

    name = "apps.core"
    label = "core"
    verbose_name = "Core"

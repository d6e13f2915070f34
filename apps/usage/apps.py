from django.apps import AppConfig


class UsageConfig(AppConfig):
    """How much: every metered call, allowed or denied."""

    name = "apps.usage"
    label = "usage"
    verbose_name = "Usage"
    permissions = {"usage.read": "See the calls of the organisation and their figures."}
    schedule = {"usage.reconcile": 3600.0}

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """What happened: the chained journal nobody can quietly change."""

    name = "apps.audit"
    label = "audit"
    verbose_name = "Journal"
    permissions = {"audit.read": "Read the journal of the organisation."}

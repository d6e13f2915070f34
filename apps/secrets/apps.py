from django.apps import AppConfig


class SecretsConfig(AppConfig):
    """What must stay hidden: sealed values and their stores."""

    name = "apps.secrets"
    label = "secrets"
    verbose_name = "Secrets"

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import DatabaseError, connection


class SecretsConfig(AppConfig):
    """What must stay hidden: sealed values and their stores."""

    name = "apps.secrets"
    label = "secrets"
    verbose_name = "Secrets"

    def ready(self) -> None:
        """Let every command refuse keys that cannot open what the database holds."""
        checks.register(check_sealing_keys)


def check_sealing_keys(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Compare the sealing keys with the database; one that is not there, or not migrated yet, needs no keys."""
    from apps.secrets import services

    if connection.vendor == "sqlite" and not Path(str(connection.settings_dict["NAME"])).exists():
        return []
    try:
        return [checks.Critical(fault, id="secrets.E001") for fault in services.find_sealing_faults()]
    except DatabaseError:
        return []

import time

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig

STARTED = time.monotonic()
"""When this process began, on its own clock."""


class ConfigConfig(AppConfig):
    """How this installation is put together; an app only for its commands."""

    name = "config"
    label = "config"


class StaffAdminConfig(AdminConfig):
    """Django's admin with our own site."""

    default_site = "config.staff.StaffSite"

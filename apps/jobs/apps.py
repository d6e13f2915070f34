from django.apps import AppConfig
from django.conf import settings


class JobsConfig(AppConfig):
    """What runs later: background work with a visible state."""

    name = "apps.jobs"
    label = "jobs"
    verbose_name = "Jobs"
    permissions = {"job.read": "See background jobs and their results.", "job.write": "Cancel and repeat jobs."}
    schedule = {"jobs.requeue": settings.JOB_LEASE_SECONDS / 2}

from django.apps import AppConfig


class JobsConfig(AppConfig):
    """What runs later: background work with a visible state."""

    name = "apps.jobs"
    label = "jobs"
    verbose_name = "Jobs"
    permissions = {"job.read": "See background jobs and their results.", "job.write": "Cancel and repeat jobs."}
    schedule = {"jobs.requeue": 15.0}

"""Checks summed up by the hour, and an index of the servers that are due."""

from collections import defaultdict
from datetime import timedelta
from typing import Any

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models
from django.utils import timezone

import apps.core.ids

BATCH = 1000
KEPT_DAYS = 8


def sum_up(apps_then: Any, schema: Any) -> None:
    """Bring the checks of the time before into their hours, one server at a time; those that are old go."""
    checks, hours = apps_then.get_model("registry", "HealthCheck"), apps_then.get_model("registry", "HealthHour")
    for server in apps_then.get_model("registry", "Server").objects.only("id", "organization_id").iterator():
        found: dict[Any, list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0])
        rows = checks.objects.filter(server_id=server.id).values_list("at", "health", "latency_ms")
        for at, health, latency_ms in rows.iterator():
            hour = found[at.replace(minute=0, second=0, microsecond=0)]
            hour[0] += 1
            if health != "unhealthy":
                hour[1] += 1
                hour[2] += latency_ms or 0.0
                hour[3] = max(hour[3], latency_ms or 0.0)
        made = [
            hours(
                organization_id=server.organization_id, server_id=server.id, at=at, checks=each[0], passed=each[1],
                latency_ms_total=each[2], latency_ms_most=each[3],
            )
            for at, each in sorted(found.items())
        ]  # fmt: skip
        hours.objects.bulk_create(made, batch_size=BATCH)
    checks.objects.filter(at__lt=timezone.now() - timedelta(days=KEPT_DAYS)).delete()


class Migration(migrations.Migration):

    dependencies = [
        ("accounts", "0002_key_rotation_and_addresses"),
        ("registry", "0002_sse_transport"),
    ]

    operations = [
        migrations.CreateModel(
            name="HealthHour",
            fields=[
                ("id", models.UUIDField(default=apps.core.ids.new_id, editable=False, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("at", models.DateTimeField(help_text="When the hour began.")),
                ("checks", models.PositiveIntegerField(default=0)),
                ("passed", models.PositiveIntegerField(default=0, help_text="Checks that found it healthy or degraded.")),
                ("latency_ms_total", models.FloatField(default=0, help_text="Of the checks that passed.")),
                ("latency_ms_most", models.FloatField(default=0)),
                ("organization", models.ForeignKey(editable=False, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="accounts.organization")),
                ("server", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="health_hours", to="registry.server")),
            ],
            options={"ordering": ("at",)},
        ),
        migrations.AddConstraint(
            model_name="healthhour",
            constraint=models.UniqueConstraint(fields=("server", "at"), name="health_hour_once"),
        ),
        migrations.AddField(
            model_name="server",
            name="check_due_at",
            field=models.DateTimeField(default=django.utils.timezone.now, editable=False),
        ),
        migrations.AddIndex(
            model_name="server",
            index=models.Index(condition=models.Q(("deleted_at", None), ("is_enabled", True)), fields=["check_due_at"], name="server_check_due"),
        ),
        migrations.RunPython(sum_up, migrations.RunPython.noop, elidable=True),
    ]

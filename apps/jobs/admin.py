"""Staff pages of jobs, and of the schedules that start them."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_beat.admin import PeriodicTaskAdmin as BeatTaskAdmin
from django_celery_beat.admin import PeriodicTaskForm, TaskSelectWidget
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.core.staff import (
    CappedPaginator,
    ExactTextFilter,
    PlatformAdmin,
    TenantAdmin,
    actor_of,
    ago,
    badge,
    choices_filter,
    code,
    column,
    deed,
    exact,
    json_block,
    reveal,
)
from apps.core.staff.display import Tone
from apps.jobs import services
from apps.jobs.models import Job, State

STATE_TONES: dict[str, Tone] = {
    State.PENDING: "quiet",
    State.RUNNING: "info",
    State.COMPLETED: "good",
    State.FAILED: "bad",
    State.CANCELLED: "quiet",
}


def _has_ended(job: Job) -> bool:
    return job.state not in (State.PENDING, State.RUNNING)


@admin.register(Job)
class JobAdmin(TenantAdmin):
    """Work in the background: where it stands, what came of it."""

    view_permission = "job.read"
    has_history = False
    intro = "Work in the background. A job that was lost with its worker is taken up again on its own."
    empty_title = "No job yet"
    empty_text = "Discovering a server starts one."
    paginator = CappedPaginator

    list_display = ("when", "kind_shown", "subject_shown", "state_shown", "progress_shown", "attempts", "actor_shown")
    list_display_links = ("when",)
    list_filter = (choices_filter("state"), ("kind", ExactTextFilter), ("subject", ExactTextFilter))
    sortable_by = ()
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("kind_shown", "subject_shown", "arguments_shown", "result_shown", "error_shown")}),
        (
            "How it went",
            {
                "fields": (
                    "progress",
                    ("attempts", "max_attempts"),
                    "run_after",
                    "started_at",
                    "heartbeat_at",
                    "finished_at",
                )
            },
        ),
        ("Who asked", {"fields": ("actor_shown", "actor_kind", "request_id")}),
    )
    readonly_fields = (
        "kind_shown", "subject_shown", "arguments_shown", "result_shown", "error_shown", "actor_shown",
        "begun", "ended", "next_run",
    )  # fmt: skip

    def summary(self, row: Job) -> Sequence[object]:
        """Where it stands."""
        shown = [self.state_shown(row)]
        if row.error:
            shown.append(format_html('<span class="gh-note">{}</span>', reveal(str(row.error.get("message", "")))))
        return shown

    @column("Asked for")
    def when(self, job: Job) -> SafeString:
        """When it was asked for."""
        return ago(job.created_at)

    @column("Kind")
    def kind_shown(self, job: Job) -> SafeString:
        """What kind of work."""
        return code(job.kind)

    @column("On what")
    def subject_shown(self, job: Job) -> SafeString:
        """What it works on."""
        return reveal(job.subject)

    @column("State")
    def state_shown(self, job: Job) -> SafeString:
        """Where it stands."""
        return badge(job.get_state_display(), STATE_TONES[job.state])

    @column("Progress")
    def progress_shown(self, job: Job) -> SafeString:
        """How far it has come."""
        return format_html(
            '<span class="gh-progress" title="{} %"><span style="width: {}%"></span></span>', job.progress, job.progress
        )

    @column("By whom")
    def actor_shown(self, job: Job) -> SafeString:
        """Who asked for it."""
        return reveal(job.actor_label)

    @column("Begun")
    def begun(self, job: Job) -> SafeString:
        """When it was first begun."""
        return exact(job.started_at)

    @column("Ended")
    def ended(self, job: Job) -> SafeString:
        """When it ended."""
        return exact(job.finished_at)

    @column("Due")
    def next_run(self, job: Job) -> SafeString:
        """Not before this moment."""
        return exact(job.run_after)

    @column("Arguments")
    def arguments_shown(self, job: Job) -> SafeString:
        """What it was given."""
        return json_block(job.arguments)

    @column("Result")
    def result_shown(self, job: Job) -> SafeString:
        """What came of it."""
        return json_block(job.result)

    @column("Error")
    def error_shown(self, job: Job) -> SafeString:
        """What went wrong."""
        return json_block(job.error)

    @deed("Cancel", permission="job.write", icon="cancel", tone="bad", is_offered=lambda job: not _has_ended(job))
    def cancel(self, actor: Actor, job: Job) -> str:
        """End it; what its worker still does is thrown away."""
        services.cancel_job(actor, job_id=job.pk)
        return f"{job} is cancelled."

    @deed("Repeat", permission="job.write", icon="replay", is_offered=_has_ended)
    def repeat(self, actor: Actor, job: Job) -> str:
        """Start it once more."""
        services.repeat_job(actor, job_id=job.pk)
        return f"{job} was started once more."


class TaskSelect(UnfoldAdminSelectWidget, TaskSelectWidget):
    """The tasks that workers know, in the look of the other fields."""


class ScheduleForm(PeriodicTaskForm):
    """A schedule, in the look of the other forms."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = TaskSelect()


class BeatPage(PlatformAdmin):
    """Rows of django-celery-beat; it saves them itself, and the journal notes who did."""

    view_permission = add_permission = change_permission = "platform"
    has_history = False
    ordering: Any = ("pk",)
    change_form_template = None

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Schedules may be deleted; those that apps need come back at the next start."""
        return self.may(request, "platform")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save, and note it."""
        super().save_model(request, obj, form, change)
        audit.record(actor_of(request), "schedule.changed" if change else "schedule.created", _named(obj))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete, and note it."""
        named = _named(obj)
        super().delete_model(request, obj)
        audit.record(actor_of(request), "schedule.deleted", named)


class PeriodicTaskAdmin(BeatPage, BeatTaskAdmin):
    """What is started when."""

    form = ScheduleForm
    intro = "What is started when. The platform makes its own schedules; change their interval, or switch them off."
    empty_title = "No schedule yet"
    empty_text = "The platform makes its schedules when it starts."
    change_form_template = None
    list_display = ("name", "task_shown", "runs", "enabled", "last_run")
    list_display_links = ("name",)
    list_filter = ("enabled",)
    search_fields = ("name", "task")
    sortable_by = ("name",)
    ordering = ("name",)
    list_select_related = ("interval", "crontab", "solar", "clocked")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """None: each schedule is changed on its own page, where the journal notes it."""
        return {}

    @column("Task")
    def task_shown(self, task: Any) -> SafeString:
        """Its name."""
        return code(task.task)

    @column("Runs")
    def runs(self, task: Any) -> str:
        """When."""
        return str(task.schedule_str if hasattr(task, "schedule_str") else task.scheduler)

    @column("Last run")
    def last_run(self, task: Any) -> SafeString:
        """When it was last started."""
        return ago(task.last_run_at)


def _named(row: Any) -> str:
    return f"schedule:{getattr(row, 'name', '') or row}"


for _model in (PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule):
    admin.site.unregister(_model)
    admin.site.register(_model, PeriodicTaskAdmin if _model is PeriodicTask else BeatPage)

"""Forms of servers."""

from typing import Any

from apps.core.staff import LinesField, PairsField, ServiceForm, WordsField
from apps.registry.models import Server


class ServerForm(ServiceForm):
    """A server, as people write it."""

    command = LinesField(
        required=False,
        help_text="The program and its arguments, one in each line. Only what GATEHOUSE_STDIO_ALLOW lists may run.",
    )
    env = PairsField(
        required=False,
        label="Environment variables",
        help_text="NAME=value, one in each line. Nothing secret: add a credential.",
    )
    tags = WordsField(required=False, help_text="Free words, with commas between them.")

    class Meta:
        model = Server
        exclude = ()
        labels = {
            "url": "URL",
            "owner_label": "Whom to ask",
            "timeout_seconds": "Timeout in seconds",
            "max_concurrency": "Calls at the same time",
            "check_interval_seconds": "Seconds between checks",
            "check_timeout_seconds": "Timeout in seconds",
            "check_retries": "Retries before it counts as down",
            "is_critical": "Critical",
            "isolate_sessions": "Isolate sessions",
        }
        help_texts = {"max_concurrency": "", "owner_label": ""}

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "env" in self.fields and self.instance.env:
            self.initial["env"] = {}
            names = ", ".join(self.instance.env_names)
            self.fields[
                "env"
            ].help_text = f"Set now: {names}. Their values are not shown. Write all pairs anew to replace them."

from django.apps import AppConfig


class PoliciesConfig(AppConfig):
    """What is allowed: one decision for every call."""

    name = "apps.policies"
    label = "policies"
    verbose_name = "Policies"
    permissions = {
        "tool.read": "List tools, and call those that only read.",
        "tool.call": "Call every tool that the organisation has approved.",
    }

from django.apps import AppConfig


class PoliciesConfig(AppConfig):
    """What is allowed: one decision for every call."""

    name = "apps.policies"
    label = "policies"
    verbose_name = "Policies"
    permissions = {
        "tool.read": "List tools, prompts and resources, and use those that staff marked as low risk.",
        "tool.call": "Call every tool that the organisation has approved.",
        "prompt.get": "Get every prompt of a server that the organisation has approved.",
        "resource.read": "Read every resource of a server that the organisation has approved.",
    }

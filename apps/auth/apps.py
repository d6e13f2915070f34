from django.apps import AppConfig


class AuthConfig(AppConfig):
    """Who is asking: users, organisations, roles, keys and tokens."""

    name = "apps.auth"
    label = "accounts"
    verbose_name = "People and keys"
    permissions = {
        "org.read": "See the organisation and its members.",
        "org.write": "Change the organisation's name and settings.",
        "member.write": "Invite and remove members and change their roles.",
        "key.read": "See API keys of the whole organisation.",
        "key.write": "Create and revoke one's own API keys.",
        "key.manage": "Revoke anybody's API keys.",
    }
    schedule = {"auth.forget_ended": 3600.0}

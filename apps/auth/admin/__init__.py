"""Staff pages of people, organisations, keys and sessions."""

from django.contrib import admin
from django.contrib.auth.models import Group

from apps.auth.admin import invitations, keys, organizations, people, sessions

# Rights come from roles; Django's groups would be a second, unheeded way to give them.
admin.site.unregister(Group)

__all__ = ["invitations", "keys", "organizations", "people", "sessions"]

"""REST: who you are, mounted at /api/v1/."""

from django.urls import path

from apps.auth.api import invitations, keys, organizations, sessions

urlpatterns = [
    path("auth/login", sessions.Login.as_view()),
    path("auth/refresh", sessions.Refresh.as_view()),
    path("auth/logout", sessions.Logout.as_view()),
    path("auth/me", sessions.Me.as_view()),
    path("auth/invitations/accept", invitations.Acceptance.as_view()),
    path("auth/api-keys", keys.Keys.as_view()),
    path("auth/api-keys/<uuid:api_key_id>", keys.Key.as_view()),
    path("auth/api-keys/<uuid:api_key_id>/rotate", keys.Rotation.as_view()),
    path("orgs", organizations.Organizations.as_view()),
    path("orgs/<uuid:organization_id>", organizations.Organization.as_view()),
    path("orgs/<uuid:organization_id>/members", organizations.Members.as_view()),
    path("orgs/<uuid:organization_id>/members/<uuid:membership_id>", organizations.Member.as_view()),
    path("orgs/<uuid:organization_id>/invitations", invitations.Invitations.as_view()),
    path("orgs/<uuid:organization_id>/invitations/<uuid:invitation_id>", invitations.Invitation.as_view()),
    path("users", organizations.Users.as_view()),
]

"""REST: invitations, for staff who make them and for whoever accepts one."""

from uuid import UUID

from django.http import HttpRequest
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.response import Response

from apps.auth import services
from apps.auth.api.door import PAGES, Door, nothing, show
from apps.auth.api.floods import refuse_floods
from apps.auth.authentication import address_of
from apps.auth.schemas import AcceptIn, InvitationIn, InvitationOut, InvitationPageOut, MemberOut, NewInvitationOut

TAGS = ["Organisations"]


class Invitations(Door):
    """/orgs/{organization_id}/invitations."""

    has_pages = True

    @extend_schema(operation_id="list_invitations", tags=TAGS, parameters=PAGES, responses=InvitationPageOut)
    def get(self, request: HttpRequest, organization_id: UUID) -> Response:
        """Who is invited and has not accepted yet."""
        found = services.list_invitations(self.actor, organization_id=organization_id, page=self.page)
        return show(InvitationPageOut, found)

    @extend_schema(operation_id="invite_member", tags=TAGS, request=InvitationIn, responses={201: NewInvitationOut})
    def post(self, request: HttpRequest, organization_id: UUID) -> Response:
        """Invite the person with an e-mail address; the link is in this answer only."""
        given = self.body(InvitationIn).model_dump()
        made = services.invite_member(self.actor, organization_id=organization_id, **given)
        shown = InvitationOut.model_validate(made.invitation).model_dump()
        return show(NewInvitationOut, {**shown, "link": made.link}, status=201)


class Invitation(Door):
    """/orgs/{organization_id}/invitations/{invitation_id}."""

    @extend_schema(operation_id="withdraw_invitation", tags=TAGS, responses={204: None})
    def delete(self, request: HttpRequest, organization_id: UUID, invitation_id: UUID) -> Response:
        """Withdraw an invitation: its link opens nothing any more."""
        services.withdraw_invitation(self.actor, organization_id=organization_id, invitation_id=invitation_id)
        return nothing()


class Acceptance(Door):
    """POST /auth/invitations/accept."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(operation_id="accept_invitation", tags=TAGS, request=AcceptIn, responses={201: MemberOut}, auth=[])
    def post(self, request: HttpRequest) -> Response:
        """Join with an invitation and the password of your account here, or one that you choose for a new account."""
        refuse_floods(self.request)
        given = self.body(AcceptIn)
        member = services.accept_invitation(**given.model_dump(), address=address_of(self.request))
        return show(MemberOut, member, status=201)

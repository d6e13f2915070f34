"""REST: organisations, their members, and people."""

from uuid import UUID

from django.http import HttpRequest
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from apps.auth import services
from apps.auth.api.door import PAGES, Door, nothing, show
from apps.auth.schemas import (
    MemberIn,
    MemberOut,
    MemberPageOut,
    MemberPatch,
    OrganizationIn,
    OrganizationOut,
    OrganizationPageOut,
    OrganizationPatch,
    UserPageOut,
)

TAGS = ["Organisations"]


class Organizations(Door):
    """/orgs."""

    has_pages = True

    @extend_schema(operation_id="list_organizations", tags=TAGS, parameters=PAGES, responses=OrganizationPageOut)
    def get(self, request: HttpRequest) -> Response:
        """The organisations where you may act."""
        return show(OrganizationPageOut, services.list_organizations(self.actor, page=self.page))

    @extend_schema(
        operation_id="create_organization", tags=TAGS, request=OrganizationIn, responses={201: OrganizationOut}
    )
    def post(self, request: HttpRequest) -> Response:
        """Make an organisation; for platform admins."""
        made = services.create_organization(self.actor, **self.body(OrganizationIn).model_dump())
        return show(OrganizationOut, made, status=201)


class Organization(Door):
    """/orgs/{organization_id}."""

    @extend_schema(operation_id="get_organization", tags=TAGS, responses=OrganizationOut)
    def get(self, request: HttpRequest, organization_id: UUID) -> Response:
        """Your organisation."""
        return show(OrganizationOut, services.get_organization(self.actor, organization_id=organization_id))

    @extend_schema(operation_id="update_organization", tags=TAGS, request=OrganizationPatch, responses=OrganizationOut)
    def patch(self, request: HttpRequest, organization_id: UUID) -> Response:
        """Change the organisation."""
        changes = self.body(OrganizationPatch).model_dump(exclude_unset=True)
        return show(
            OrganizationOut, services.update_organization(self.actor, organization_id=organization_id, **changes)
        )


class Members(Door):
    """/orgs/{organization_id}/members."""

    has_pages = True

    @extend_schema(operation_id="list_members", tags=TAGS, parameters=PAGES, responses=MemberPageOut)
    def get(self, request: HttpRequest, organization_id: UUID) -> Response:
        """Who belongs to the organisation, and as what."""
        return show(MemberPageOut, services.list_members(self.actor, organization_id=organization_id, page=self.page))

    @extend_schema(operation_id="add_member", tags=TAGS, request=MemberIn, responses={201: MemberOut})
    def post(self, request: HttpRequest, organization_id: UUID) -> Response:
        """Let a user in whom you can see; others are invited."""
        given = self.body(MemberIn).model_dump()
        return show(MemberOut, services.add_member(self.actor, organization_id=organization_id, **given), status=201)


class Member(Door):
    """/orgs/{organization_id}/members/{membership_id}."""

    @extend_schema(operation_id="get_member", tags=TAGS, responses=MemberOut)
    def get(self, request: HttpRequest, organization_id: UUID, membership_id: UUID) -> Response:
        """One member."""
        found = services.get_member(self.actor, organization_id=organization_id, membership_id=membership_id)
        return show(MemberOut, found)

    @extend_schema(operation_id="change_role", tags=TAGS, request=MemberPatch, responses=MemberOut)
    def patch(self, request: HttpRequest, organization_id: UUID, membership_id: UUID) -> Response:
        """Give a member another role; they sign in again."""
        role = self.body(MemberPatch).role
        place = {"organization_id": organization_id, "membership_id": membership_id}
        return show(MemberOut, services.change_role(self.actor, role=role, **place))

    @extend_schema(operation_id="remove_member", tags=TAGS, responses={204: None})
    def delete(self, request: HttpRequest, organization_id: UUID, membership_id: UUID) -> Response:
        """Take a member out of the organisation; their keys there are revoked."""
        services.remove_member(self.actor, organization_id=organization_id, membership_id=membership_id)
        return nothing()


class Users(Door):
    """/users."""

    has_pages = True

    @extend_schema(operation_id="list_users", tags=TAGS, parameters=PAGES, responses=UserPageOut)
    def get(self, request: HttpRequest) -> Response:
        """The people of your organisation, for its staff."""
        return show(UserPageOut, services.list_users(self.actor, page=self.page))

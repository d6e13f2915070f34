"""Which secret opens which server. Secrets are written, used and destroyed, never shown."""

import base64
import re
from uuid import UUID

from django.db import transaction

from apps.audit import services as audit
from apps.auth import services as auth
from apps.core.actor import Actor
from apps.core.errors import Conflict, InvalidInput, NotFound
from apps.registry.models import Credential, CredentialKind, Server, Transport
from apps.registry.services.servers import get_server, hold_server, is_elsewhere_than
from apps.secrets import services as secrets

LONGEST_SECRET = 8192
_VISIBLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?\Z", re.ASCII)
_OURS = re.compile(
    r"(?:host|content-.*|accept.*|connection|keep-alive|transfer-encoding|te|trailer|upgrade|expect|cookie|mcp-.*|last-event-id"
    r"|traceparent|tracestate|x-request-id|forwarded|x-forwarded-.*|proxy-.*|via|user-agent|date|range|sec-.*)\Z",
    re.IGNORECASE,
)


def add_credential(
    actor: Actor, *, server_id: UUID, kind: str, secret: str, header: str = "", username: str = ""
) -> Credential:
    """Seal a secret and present it to the server with each request from now on."""
    server = get_server(actor, server_id=server_id)
    actor.require("server.write")
    actor.require_confirmed()
    if server.transport == Transport.STDIO:
        raise InvalidInput.for_field("server", "A stdio server is given variables, not credentials.")
    _check(kind, secret, header, username)
    credential = Credential(
        organization_id=server.organization_id, server=server, kind=kind, header=header, username=username
    )
    with transaction.atomic():
        if is_elsewhere_than(hold_server(server), server.url):
            raise Conflict("The server has been pointed elsewhere meanwhile. Look at it again.")
        if _header_of(credential).lower() in {_header_of(other).lower() for other in server.credentials.all()}:
            raise Conflict("This server has a credential in the same header already. Remove that one first.")
        credential.secret_id = secrets.keep(actor, purpose=f"server:{server.slug}", plain=secret).id
        credential.store()
        audit.record(actor, "credential.added", server, details=_told(credential))
        auth.raise_revision(server.organization_id)
    return credential


def list_credentials(actor: Actor, *, server_id: UUID) -> list[Credential]:
    """The credentials of a server, without their secrets."""
    return list(get_server(actor, server_id=server_id).credentials.all())


def remove_credential(actor: Actor, *, credential_id: UUID, server_id: UUID | None = None) -> None:
    """Destroy a credential and its secret."""
    actor.require("server.read")
    found = Credential.objects.for_org(actor.organization_id).filter(pk=credential_id).select_related("server")
    credential = (found.filter(server_id=server_id) if server_id else found).first()
    if credential is None:
        raise NotFound("There is no such credential.")
    actor.require("server.write")
    actor.require_confirmed()
    with transaction.atomic():
        hold_server(credential.server, is_present=False)
        destroy(actor, credential)
        auth.raise_revision(credential.organization_id)


def destroy(actor: Actor, credential: Credential) -> None:
    """Delete the row and its secret, in the caller's transaction."""
    secret_id, server, told = credential.secret_id, credential.server, _told(credential)
    credential.delete()
    secrets.forget(actor, secret_id=secret_id)
    audit.record(actor, "credential.removed", server, details=told)


def headers_of(server: Server) -> dict[str, str]:
    """The headers that present a server's credentials, opened: they go to the server and nowhere else."""
    return {
        _header_of(credential): value
        for credential in server.credentials.all()
        if (value := _value_of(credential)) is not None
    }


def _told(credential: Credential) -> dict[str, str]:
    """What the journal says of a credential: which it was, and how it travels; never what it is."""
    return {
        "id": str(credential.pk), "kind": credential.kind, "header": credential.header, "username": credential.username
    }  # fmt: skip


def _header_of(credential: Credential) -> str:
    return str(credential.header) if credential.kind == CredentialKind.HEADER else "Authorization"


def _value_of(credential: Credential) -> str | None:
    """What goes into the header; None when the credential was removed after it was read."""
    try:
        plain = secrets.open_secret(credential.secret_id, organization_id=credential.organization_id)
    except NotFound:
        if Credential.objects.filter(pk=credential.pk).exists():
            raise
        return None
    if credential.kind == CredentialKind.BEARER:
        return f"Bearer {plain}"
    if credential.kind == CredentialKind.BASIC:
        return f"Basic {base64.b64encode(f'{credential.username}:{plain}'.encode()).decode()}"
    return plain


def _check(kind: str, secret: str, header: str, username: str) -> None:
    if not secret or len(secret) > LONGEST_SECRET:
        raise InvalidInput.for_field("secret", f"A secret has between 1 and {LONGEST_SECRET} characters.")
    if kind != CredentialKind.BASIC and not _VISIBLE.match(secret):
        raise InvalidInput.for_field("secret", "A secret in a header has visible ASCII characters, on one line.")
    if kind == CredentialKind.HEADER and (not header or _OURS.match(header)):
        raise InvalidInput.for_field("header", "Name a header that the protocol and HTTP itself do not use.")
    if kind != CredentialKind.HEADER and header:
        raise InvalidInput.for_field("header", "Only a credential of kind header has one.")
    if kind == CredentialKind.BASIC and (not username or ":" in username):
        raise InvalidInput.for_field("username", "User and password: a user name without a colon is needed.")
    if kind != CredentialKind.BASIC and username:
        raise InvalidInput.for_field("username", "Only a credential of kind basic has a user name.")

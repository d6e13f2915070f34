"""Access tokens: what we sign is read, and nothing else is (AUTH-3, AUTH-4; attacks A01 to A12 and A15)."""

import builtins
import hashlib
import io
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from apps.auth import services
from apps.auth.models import ROLE_GRANTS, User
from apps.auth.services.rights import grants_of_role
from apps.auth.services.signing import signing_key
from apps.core.actor import Actor
from apps.core.errors import NotAuthenticated, NotPermitted
from tests.auth.forge import changed, claims_of, client, knock, opens_mcp, raw, refused, sign_in, signed
from tests.people import Person, make_person

pytestmark = pytest.mark.once

MANY = examples(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HOUR = 3600


@pytest.fixture
def token(alice: Person) -> str:
    """An access token of Alice's for REST."""
    return sign_in(alice).access


@pytest.fixture
def sink() -> Iterator[HTTPServer]:
    """A server that counts who calls it: the attacker's key set."""

    class Sink(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

    hits: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), Sink)
    server.hits = hits  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def public_pem() -> bytes:
    """Our public key, which everybody may know."""
    return signing_key().public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# What a good token is ---------------------------------------------------------------------------------------------


def test_a_token_of_a_login_says_who_where_and_what(alice: Person, token: str) -> None:
    said = claims_of(token)

    assert said["sub"] == said["user_id"] == str(alice.user.id)
    assert said["org"] == str(alice.organization.id)
    assert said["roles"] == ["owner"]
    assert said["permissions"] == sorted(alice.actor.grants)
    assert said["iss"] == settings.PUBLIC_URL
    assert said["aud"] == settings.REST_AUDIENCE
    assert said["exp"] - said["iat"] == 15 * 60
    assert {"jti", "nbf"} <= set(said)


def test_a_refresh_token_lives_seven_days(alice: Person) -> None:
    said = claims_of(sign_in(alice).refresh)

    assert said["exp"] - said["iat"] == 7 * 24 * HOUR


def test_a_token_opens_rest(token: str) -> None:
    assert knock(token).status_code == 200


def test_anybody_can_verify_a_token_with_the_published_key(token: str) -> None:
    answer = Client().get("/.well-known/jwks.json")
    [published] = answer.json()["keys"]

    header = jwt.get_unverified_header(token)
    said = jwt.decode(token, jwt.PyJWK(published).key, ["RS256"], audience=settings.REST_AUDIENCE)

    assert answer.status_code == 200
    assert header == {"alg": "RS256", "kid": published["kid"], "typ": "at+jwt"}
    assert said["iss"] == settings.PUBLIC_URL


def test_the_kid_is_the_keys_thumbprint_and_the_private_half_is_not_published() -> None:
    [published] = services.published_keys()["keys"]

    members = json.dumps({name: published[name] for name in ("e", "kty", "n")}, separators=(",", ":"))
    digest = hashlib.sha256(members.encode()).digest()

    assert jwt.utils.base64url_encode(digest).decode() == published["kid"]
    assert set(published) == {"kty", "n", "e", "use", "alg", "kid"}


# A01, A02: algorithms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", ["none", "NonE", "NONE", "", "RS512", "PS256", "HS256", "ES256", None, 7, ["RS256"]]
)
def test_a_token_of_another_algorithm_is_refused(token: str, algorithm: Any) -> None:
    header = {"alg": algorithm, "kid": signing_key().kid, "typ": "at+jwt"}

    assert refused(knock(raw(header, claims_of(token))))
    assert refused(knock(raw(header, claims_of(token), b"signature")))


def test_a_token_that_our_own_key_signed_by_another_algorithm_is_refused(token: str) -> None:
    key = signing_key()

    forged = jwt.encode(claims_of(token), key.private, "RS512", headers={"kid": key.kid, "typ": "at+jwt"})

    assert refused(knock(forged))


def test_a_token_signed_with_our_public_key_as_a_secret_is_refused(token: str) -> None:
    import hmac

    for secret in (public_pem(), public_pem().strip(), json.dumps(services.published_keys()).encode()):
        head, body, _ = raw({"alg": "HS256", "kid": signing_key().kid, "typ": "at+jwt"}, claims_of(token)).split(".")
        mark = hmac.new(secret, f"{head}.{body}".encode(), "sha256").digest()
        forged = f"{head}.{body}.{jwt.utils.base64url_encode(mark).decode()}"

        assert refused(knock(forged))


# A03, A04, A05: headers -------------------------------------------------------------------------------------------


def test_a_key_that_a_token_brings_along_or_points_to_is_never_used(token: str, sink: HTTPServer) -> None:
    evil = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(evil.public_key(), as_dict=True)
    place = f"http://127.0.0.1:{sink.server_port}/keys"
    ours = {"kid": signing_key().kid, "typ": "at+jwt"}

    for lure in ({"jwk": jwk}, {"jku": place}, {"x5u": place}, {"x5c": ["AAAA"]}, {"jku": place, "kid": "evil"}):
        assert refused(knock(jwt.encode(claims_of(token), evil, "RS256", headers={**ours, **lure})))
        assert refused(knock(signed(claims_of(token), **lure)))
    assert sink.hits == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kid", ["../../dev/null", "/dev/null", "x' OR 1=1--", "k" * 10_240, "a\x00b", "", "evil", 7, None, ["a"], {"a": 1}]
)
def test_an_unknown_kid_is_refused_without_touching_files_or_database(
    token: str, kid: Any, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = raw({"alg": "RS256", "kid": kid, "typ": "at+jwt"}, claims_of(token), b"signature")

    def no_file(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was opened")

    with django_assert_num_queries(0), monkeypatch.context() as watched:
        watched.setattr(builtins, "open", no_file)
        watched.setattr(io, "open", no_file)
        with pytest.raises(NotAuthenticated):
            services.actor_from_bearer(forged, surface="rest", audience=settings.REST_AUDIENCE)

    assert refused(knock(forged.replace("\x00", "")))


@pytest.mark.parametrize("crit", [["exp"], ["b64"], ["http://evil.example/x"], [], "exp"])
def test_a_token_with_a_critical_extension_is_refused(token: str, crit: Any) -> None:
    header = {"alg": "RS256", "kid": signing_key().kid, "typ": "at+jwt", "crit": crit}
    head, body, _ = raw(header, claims_of(token)).split(".")
    mark = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(
        f"{head}.{body}".encode(), signing_key().private
    )

    assert refused(knock(f"{head}.{body}.{jwt.utils.base64url_encode(mark).decode()}"))


# A06 to A09: time, audience and issuer ----------------------------------------------------------------------------


def test_a_token_that_expired_a_second_ago_is_refused(token: str) -> None:
    assert refused(knock(changed(token, exp=int(time.time()) - 1)))
    assert knock(changed(token, exp=int(time.time()) + 60)).status_code == 200


def test_leeway_is_what_the_setting_says(token: str, settings: Any) -> None:
    settings.TOKEN_LEEWAY_SECONDS = 30

    assert refused(knock(changed(token, exp=int(time.time()) - 31)))
    assert knock(changed(token, exp=int(time.time()) - 20)).status_code == 200


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused(token: str, claim: str) -> None:
    assert refused(knock(changed(token, **{claim: int(time.time()) + HOUR})))


@pytest.mark.parametrize(
    "claim",
    [
        "exp",
        "iat",
        "nbf",
        "iss",
        "aud",
        "sub",
        "jti",
        "user_id",
        "org",
        "roles",
        "permissions",
        "sid",
        "epoch",
        "token_type",
    ],
)
def test_a_token_without_one_of_its_claims_is_refused(token: str, claim: str) -> None:
    assert refused(knock(changed(token, **{claim: ...})))


@pytest.mark.parametrize("issuer", ["https://evil.example", "", "http://127.0.0.1", None, 7, ["x"]])
def test_a_token_of_another_issuer_is_refused(token: str, issuer: Any) -> None:
    said = {**claims_of(token), "iss": issuer}
    head, body, _ = raw({"alg": "RS256", "kid": signing_key().kid, "typ": "at+jwt"}, said).split(".")
    mark = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(
        f"{head}.{body}".encode(), signing_key().private
    )

    assert refused(knock(f"{head}.{body}.{jwt.utils.base64url_encode(mark).decode()}"))


@pytest.mark.parametrize("audience", ["https://evil.example", "", ["x"], None])
def test_a_token_for_another_audience_is_refused(token: str, audience: Any) -> None:
    assert refused(knock(changed(token, aud=audience)))
    assert refused(knock(changed(token, aud=[settings.REST_AUDIENCE, "https://evil.example"])))


def test_a_token_for_rest_is_refused_on_mcp_and_the_reverse(alice: Person) -> None:
    for_rest = sign_in(alice).access
    for_mcp = sign_in(alice, resource=settings.MCP_AUDIENCE).access

    assert knock(for_rest).status_code == 200
    assert not opens_mcp(for_rest)
    assert opens_mcp(for_mcp)
    assert refused(knock(for_mcp))


# A12: one kind for the other --------------------------------------------------------------------------------------


def test_a_refresh_token_is_no_access_token_and_the_reverse(alice: Person) -> None:
    given_pair = sign_in(alice)

    assert refused(knock(given_pair.refresh))
    assert refused(client().post("/api/v1/auth/refresh", {"refresh": given_pair.access}, format="json"))


def test_neither_kind_nor_header_alone_makes_an_access_token(alice: Person, token: str) -> None:
    refresh = claims_of(sign_in(alice).refresh)

    assert refused(knock(signed({**refresh, "aud": settings.REST_AUDIENCE})))
    assert refused(knock(signed({**claims_of(token), "token_type": "id"})))
    assert refused(knock(signed(claims_of(token), typ="JWT")))
    assert refused(knock(signed(claims_of(token), typ="rt+jwt")))


# A15: claims of other types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_id", [["a"], {"a": 1}, "\x00", True, 1, 1.5, None, "1 OR 1=1", "", "a" * 5000, "१२३"])
def test_a_token_whose_user_is_no_id_is_refused(token: str, user_id: Any) -> None:
    assert refused(knock(changed(token, user_id=user_id)))
    assert refused(knock(changed(token, user_id=user_id, jti=user_id, org=user_id)))


def test_a_token_of_nobody_or_of_somebody_else_is_refused(token: str, bob: Person) -> None:
    assert refused(knock(changed(token, sub=str(uuid4()), user_id=str(uuid4()))))
    assert refused(knock(changed(token, sub=str(bob.user.id), user_id=str(bob.user.id))))
    assert refused(knock(changed(token, org=str(bob.organization.id))))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@MANY
@given(
    claim=st.sampled_from(["sub", "user_id", "org", "sid", "jti", "exp", "iat", "nbf", "epoch", "aud", "iss"]),
    value=_JSON,
)
def test_whatever_a_claim_becomes_the_answer_is_401_or_the_token_still_true(token: str, claim: str, value: Any) -> None:
    before = claims_of(token)
    try:
        forged = changed(token, **{claim: value})
    except TypeError:
        return  # the library does not even sign it

    try:
        actor = services.actor_from_bearer(forged, surface="rest", audience=settings.REST_AUDIENCE)
    except NotAuthenticated:
        return

    # Without the claim of an organisation a token is still one of this user; other times may be as good.
    assert str(actor.user_id) == before["user_id"]
    assert claim in ("exp", "iat", "nbf") or (claim == "org" and value is None) or value == before[claim]


@MANY
@given(text=st.text(max_size=300) | st.from_regex(r"eyJ[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}"))
def test_no_text_is_a_credential_by_chance(db: None, django_assert_num_queries: Any, text: str) -> None:
    with django_assert_num_queries(0), pytest.raises(NotAuthenticated):
        services.actor_from_bearer(text, surface="rest", audience=settings.REST_AUDIENCE)


# The properties of the sources ------------------------------------------------------------------------------------


def _somebody(name: str, role: str) -> tuple[Person, str]:
    person = make_person(f"{name}-{uuid4().hex[:8]}", "acme", role)
    return person, sign_in(person).access


_NAMES = st.from_regex(r"[a-z]{1,12}", fullmatch=True)
_ROLES = st.sampled_from(sorted(ROLE_GRANTS))
_PERMISSIONS = sorted(services.known_permissions())


@MANY
@given(name=_NAMES, role=_ROLES)
def test_every_login_gives_a_token_with_user_and_roles(db: None, name: str, role: str) -> None:
    """Feature: mcp-platform-backend, Property 20: JWT Token Claims Completeness."""
    person, access = _somebody(name, role)

    said = claims_of(access)

    assert said["user_id"] == str(person.user.id)
    assert said["roles"] == [role]


@MANY
@given(name=_NAMES, role=_ROLES)
def test_every_token_leads_back_to_its_user(db: None, name: str, role: str) -> None:
    """Feature: mcp-platform-backend, Property 21: JWT Token Round-Trip Validation."""
    person, access = _somebody(name, role)

    actor = services.actor_from_bearer(access, surface="rest", audience=settings.REST_AUDIENCE)

    assert (actor.user_id, actor.role, actor.grants) == (person.user.id, role, grants_of_role(role))


@MANY
@given(seconds=st.integers(1, 10**9))
def test_every_expired_token_is_refused(token: str, seconds: int) -> None:
    """Feature: mcp-platform-backend, Property 22: Expired Token Rejection."""
    expired = changed(token, exp=max(0, int(time.time()) - seconds))

    assert refused(knock(expired))


@MANY
@given(
    role=st.sampled_from(["developer", "viewer", "nobody"]),
    permission=st.sampled_from(sorted(services.known_permissions())),
)
def test_whatever_is_beyond_a_role_is_refused(role: str, permission: str) -> None:
    """Feature: mcp-platform-backend, Property 23: Authorization Permission Check."""
    actor = Actor(kind="user", id=uuid4(), label="somebody", surface="rest", role=role, grants=grants_of_role(role))

    if permission in grants_of_role(role):
        actor.require(permission)
    else:
        with pytest.raises(NotPermitted) as refusal:
            actor.require(permission)
        assert refusal.value.status == 403


@MANY
@given(name=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=80), role=_ROLES)
def test_every_key_leads_back_to_its_owner(alice: Person, name: str, role: str) -> None:
    """Feature: mcp-platform-backend, Property 24: API Key Authentication."""
    person = make_person(f"owner-{uuid4().hex[:8]}", "acme", role)
    key = services.create_key(person.actor, name=f"k{name}")

    actor = services.actor_from_bearer(key.plain, surface="mcp", audience=settings.MCP_AUDIENCE)

    assert (actor.kind, actor.user_id, actor.organization_id) == ("key", person.user.id, alice.organization.id)


def test_a_token_lives_as_long_as_the_setting(alice: Person) -> None:
    assert sign_in(alice).expires_in == timedelta(minutes=15).total_seconds()
    assert User.objects.get(pk=alice.user.id).last_login is not None

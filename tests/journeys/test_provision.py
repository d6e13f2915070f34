"""`manage.py provision`: an organisation with its people and keys, for scripts."""

import io
import json

import pytest
from django.conf import settings
from django.core.management import call_command

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.auth.models import ApiKey, Membership, Organization, User

ROLES = {"owner", "admin", "developer", "viewer"}
COUNTED = (Organization, User, Membership, ApiKey, Entry)

pytestmark = pytest.mark.django_db


def provision(*arguments: str) -> tuple[int, str, str]:
    """Status, output and errors of the command."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("provision", *arguments, stdout=out, stderr=err)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def counts() -> list[int]:
    """How many rows there are of everything that the command makes."""
    return [model.objects.count() for model in COUNTED]


def test_it_prints_an_account_and_a_key_for_every_role():
    status, out, _ = provision("--org", "acme", "--json")

    made = json.loads(out)
    assert status == 0
    assert made["org"] == {"id": str(Organization.objects.get().id), "slug": "acme"}
    assert set(made["users"]) == set(made["keys"]) == ROLES
    assert made["users"]["owner"]["email"] == "owner@acme.example"
    for role, key in made["keys"].items():
        actor = auth.actor_from_bearer(key, surface="rest", audience=settings.REST_AUDIENCE)
        assert (actor.role, actor.organization_slug) == (role, "acme")
        assert auth.login(**made["users"][role]).access


def test_the_platform_admin_is_made_once():
    first = json.loads(provision("--org", "acme", "--json")[1])
    second = json.loads(provision("--org", "globex", "--json")[1])

    assert User.objects.get(is_superuser=True).email == first["platform_admin"]["email"]
    assert auth.login(**first["platform_admin"]).access
    assert second["platform_admin"] is None


def test_a_second_run_fails_with_conflict_and_changes_nothing():
    provision("--org", "acme", "--json")
    before = counts()

    status, out, err = provision("--org", "acme", "--json")

    assert (status, out) == (1, "")
    assert json.loads(err)["error"]["code"] == "CONFLICT"
    assert counts() == before


def test_a_slug_that_is_none_is_refused_whole():
    status, out, err = provision("--org", "Not A Slug")

    assert (status, out) == (1, "")
    assert err.startswith("INVALID_INPUT: ")
    assert counts() == [0, 0, 0, 0, 0]


def test_a_person_gets_a_table():
    _, out, _ = provision("--org", "acme")

    assert out.startswith("Organisation acme (")
    assert len([line for line in out.splitlines() if "gate_" in line]) == len(ROLES)
    assert "platform admin" in out

"""A new key is shown once, on a page that nothing keeps (K11)."""

import re

from django.apps import apps
from django.contrib.sessions.models import Session
from django.core import serializers

from apps.auth.models import ApiKey
from tests.staff.rooms import enter, list_url, page_url

ADD = "add/"
KEY = re.compile(r"gate_[A-Za-z0-9]{6,}_[A-Za-z0-9]{20,}")


def make_key(client, **sent):
    """Fill in the form and send it."""
    form = client.get(list_url(ApiKey) + ADD)
    once = re.search(r'name="once" value="([^"]+)"', form.text)[1]
    owner = re.search(r'<option value="([0-9a-f-]{36})" selected', form.text)[1]
    filled = {"name": "ci", "user": owner, "scopes": "", "once": once, **sent}
    return client.post(list_url(ApiKey) + ADD, filled), filled


def test_the_answer_shows_the_key_and_is_kept_by_nobody(alice):
    answer, _ = make_key(enter(alice))

    assert answer.status_code == 200
    assert len(KEY.findall(answer.text)) == 1
    assert "no-store" in answer["Cache-Control"]


def test_the_key_works_for_its_owner(alice):
    from django.conf import settings

    from apps.auth import services

    answer, _ = make_key(enter(alice), scopes="server.read")
    actor = services.actor_from_bearer(KEY.search(answer.text)[0], surface="rest", audience=settings.REST_AUDIENCE)

    assert actor.user_id == alice.user.pk
    assert actor.grants == {"server.read"}


def test_sending_the_page_again_neither_shows_the_key_nor_makes_another(alice):
    client = enter(alice)
    first, filled = make_key(client)

    again = client.post(list_url(ApiKey) + ADD, filled, follow=True)

    assert KEY.search(first.text)[0] not in again.text
    assert "shown only once" in again.text
    assert ApiKey.objects.count() == 1


def test_no_other_page_and_no_table_has_the_key(alice):
    client = enter(alice)
    answer, _ = make_key(client)
    plain = KEY.search(answer.text)[0]
    secret = plain.rpartition("_")[2]
    key = ApiKey.objects.get()

    pages = [
        client.get(address).text
        for address in (list_url(ApiKey), page_url(key), page_url(key).replace("change", "history"), "/admin/")
    ]
    dump = "".join(serializers.serialize("json", model.objects.all()) for model in apps.get_models())
    sessions = "".join(str(session.get_decoded()) for session in Session.objects.all())

    assert not [page for page in pages if secret in page]
    assert secret not in dump + sessions


def test_a_mistake_in_the_form_costs_no_key_and_the_form_can_be_sent_again(alice):
    client = enter(alice)

    refused, filled = make_key(client, scopes="no.such.thing")
    once = re.search(r'name="once" value="([^"]+)"', refused.text)[1]
    answer = client.post(list_url(ApiKey) + ADD, {**filled, "scopes": "server.read", "once": once})

    assert "names no permission" in refused.text
    assert KEY.search(answer.text)
    assert ApiKey.objects.count() == 1


def test_a_form_that_this_session_was_never_given_makes_no_key(alice, adam):
    _, filled = make_key(enter(alice))

    answer = enter(adam).post(list_url(ApiKey) + ADD, {**filled, "once": "guessed"}, follow=True)

    assert not KEY.search(answer.text)
    assert ApiKey.objects.count() == 1


def test_an_admin_makes_a_key_for_an_agents_owner_but_not_for_more_than_they_may(alice, adam, dora):
    answer, _ = make_key(enter(adam), user=str(dora.user.pk))
    key = ApiKey.objects.get()

    assert KEY.search(answer.text)
    assert key.user == dora.user


def test_a_rotated_key_is_shown_once_and_coming_back_shows_nothing(alice):
    client = enter(alice)
    make_key(client, allowed_addresses="10.0.0.0/8, 127.0.0.1")
    old = ApiKey.objects.get()
    address = page_url(old).replace("change/", "do/rotate/")

    asked = client.get(address)
    answer = client.post(address, {"overlap_seconds": "3600"})
    again = client.post(address, {"overlap_seconds": "3600"}, follow=True)

    new = ApiKey.objects.exclude(pk=old.pk).get()
    plain = KEY.search(answer.text)[0]
    assert "The old key still works for" in asked.text
    assert len(KEY.findall(answer.text)) == 1 and new.prefix[:-1] in plain
    assert "no-store" in answer["Cache-Control"]
    assert not KEY.search(again.text) and "has a successor already" in again.text
    assert new.allowed_addresses == ["10.0.0.0/8", "127.0.0.1/32"]
    page = client.get(page_url(old)).text
    assert plain not in page and new.prefix in page and "10.0.0.0/8" in page


def test_a_network_that_is_none_is_refused_on_its_field(alice):
    answer, _ = make_key(enter(alice), allowed_addresses="10.0.0.1/8")

    assert "is no network" in answer.text
    assert not ApiKey.objects.exists()

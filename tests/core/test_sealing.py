"""A sealed value opens where it belongs, with the keys of this installation, and nowhere else."""

import base64
import os
from uuid import uuid4

import pytest

from apps.core.errors import BackendError
from apps.core.sealing import seal, unseal

ACME, GLOBEX, ROW, OTHER_ROW = uuid4(), uuid4(), uuid4(), uuid4()
PLAIN = "s3cret-ü-😀"


@pytest.fixture
def sealed():
    return seal(PLAIN, organization_id=ACME, record_id=ROW, field="value")


def test_a_value_opens_in_its_own_place(sealed):
    assert unseal(sealed, organization_id=ACME, record_id=ROW, field="value") == PLAIN


@pytest.mark.parametrize(
    "place",
    [
        {"organization_id": GLOBEX, "record_id": ROW, "field": "value"},
        {"organization_id": None, "record_id": ROW, "field": "value"},
        {"organization_id": ACME, "record_id": OTHER_ROW, "field": "value"},
        {"organization_id": ACME, "record_id": ROW, "field": "other"},
    ],
)
def test_a_value_moved_elsewhere_does_not_open(sealed, place):
    with pytest.raises(BackendError):
        unseal(sealed, **place)


def test_the_same_value_never_looks_the_same_and_never_shows(sealed):
    again = seal(PLAIN, organization_id=ACME, record_id=ROW, field="value")

    assert sealed != again
    assert PLAIN not in sealed and PLAIN.encode() not in base64.urlsafe_b64decode(sealed.split(".")[2])


@pytest.mark.parametrize("position", [0, 5, 11, 12, 20, -17, -16, -1])
def test_a_changed_bit_is_noticed(sealed, position):
    version, number, text = sealed.split(".")
    raw = bytearray(base64.urlsafe_b64decode(text))
    raw[position] ^= 1

    with pytest.raises(BackendError):
        unseal(
            f"{version}.{number}.{base64.urlsafe_b64encode(raw).decode()}",
            organization_id=ACME, record_id=ROW, field="value",
        )  # fmt: skip


@pytest.mark.parametrize(
    "value",
    ["", "v1", "v1.1", "v1.1.", "v1.1.AAAA", "v2.1.AAAA", "v1.x.AAAA", "v1.99.AAAA", "v1.1.!!!", "a.b.c.d",
     "v1.-1.AAAA", "ü.1.x", "v1.1.AAAAAAAAAAAAAAAA", "v1.1.ü"],
)  # fmt: skip
def test_what_is_no_sealed_value_is_refused_with_a_sentence(value):
    with pytest.raises(BackendError, match="cannot be opened here"):
        unseal(value, organization_id=ACME, record_id=ROW, field="value")


def test_a_new_key_seals_and_the_old_one_still_opens(sealed, settings):
    settings.SEALING_KEYS = {**settings.SEALING_KEYS, 7: os.urandom(32)}

    fresh = seal(PLAIN, organization_id=ACME, record_id=ROW, field="value")

    assert fresh.startswith("v1.7.")
    for value in (sealed, fresh):
        assert unseal(value, organization_id=ACME, record_id=ROW, field="value") == PLAIN


def test_without_its_key_a_value_stays_shut(sealed, settings):
    settings.SEALING_KEYS = {7: os.urandom(32)}

    with pytest.raises(BackendError):
        unseal(sealed, organization_id=ACME, record_id=ROW, field="value")


def test_another_key_under_the_same_number_does_not_open(sealed, settings):
    settings.SEALING_KEYS = {number: os.urandom(32) for number in settings.SEALING_KEYS}

    with pytest.raises(BackendError):
        unseal(sealed, organization_id=ACME, record_id=ROW, field="value")

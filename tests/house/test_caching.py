"""No answer is kept for somebody else: none may be stored, and none is replaced by "you have it already" (B10)."""

import pytest

from tests.house.tenants import CANARY
from tests.house.world import World

CONDITIONS = [
    {"If-None-Match": "*"}, {"If-None-Match": 'W/"x", "y"', "If-Modified-Since": "Fri, 20 Nov 2099 12:00:00 GMT"},
    {"Cache-Control": "only-if-cached, max-stale=999999"},
]  # fmt: skip
PAGES = ("/admin/", "/admin/login/")


def readable(world: World) -> list[str]:
    """Every address of the document that reads something of an organisation's, without ids."""
    return [each.path for each in world.operations if each.method == "get" and not each.parameters]


def is_for_nobody_else(headers: dict[str, str]) -> bool:
    """Whether neither a browser nor a proxy keeps an answer."""
    return "no-store" in headers.get("cache-control", "") and not {"etag", "last-modified"} & set(headers)


def test_no_answer_with_an_organisations_data_may_be_stored(world: World) -> None:
    owner, ids = world.callers["owner of A"], world.ids(world.theirs)
    answers = {
        str(each): owner.get(each.at(ids)) for each in world.operations
        if each.method == "get" and each.needs_credential and "event" not in each.path
    }  # fmt: skip

    telling = [name for name, answer in answers.items() if CANARY in answer.text]

    assert len(telling) > 10
    assert [name for name, answer in answers.items() if not is_for_nobody_else(answer.headers)] == []


@pytest.mark.parametrize("sent", CONDITIONS, ids=lambda sent: next(iter(sent.values())))
def test_the_same_address_answers_each_with_their_own_whatever_they_say_to_have(
    world: World, sent: dict[str, str]
) -> None:
    """A, then B, then A again, then nobody."""
    known = {}
    for path in readable(world):
        for caller in ("owner of A", "owner", "owner of A", "nobody"):
            answer = world.callers[caller].get(path, headers=sent)
            assert answer.status != 304, path
            if caller in ("owner", "nobody"):
                assert CANARY not in answer.text, path
            known[path, caller] = answer.status, CANARY in answer.text

    telling = [path for path in readable(world) if known[path, "owner of A"] == (200, True)]
    assert len(telling) > 5
    assert {known[path, "nobody"][0] for path in telling} == {401}


@pytest.mark.parametrize("path", PAGES)
def test_no_page_of_the_control_room_may_be_stored(world: World, path: str) -> None:
    assert is_for_nobody_else(world.callers["nobody"].get(path).headers)

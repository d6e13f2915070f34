"""What capabilities are called: unique, stable, and never silently another's."""

import itertools
import re

import pytest

from apps.registry.services.names import public_names, refusal_of_name


def named(slug: str, *names: str, held: dict[str, str] | None = None, taken: tuple[str, ...] = ()) -> dict[str, str]:
    """The names of tools for agents."""
    return public_names("tool", slug, names, held=held or {}, taken=taken)


def test_a_plain_name_follows_the_slug() -> None:
    assert named("weather", "get_forecast", "now-2") == {
        "get_forecast": "weather__get_forecast",
        "now-2": "weather__now-2",
    }


def test_a_name_that_had_to_be_changed_or_shortened_ends_in_its_digest() -> None:
    found = named("weather", "a.b", "a/b", "x" * 128)

    assert re.fullmatch(r"weather__a_b_[0-9a-f]{8}", found["a.b"])
    assert found["a.b"] != found["a/b"]
    assert len(found["x" * 128]) == 44
    assert re.fullmatch(r"[A-Za-z0-9_-]{44}", found["x" * 128])


def test_names_that_differ_in_case_only_are_told_apart_in_whatever_order_they_come() -> None:
    results = [named("w", *order) for order in itertools.permutations(["Echo", "echo", "ECHO", "add"])]

    assert all(result == results[0] for result in results)
    folded = {public.casefold() for public in results[0].values()}
    assert len(folded) == 4
    assert results[0]["add"] == "w__add"
    assert "w__echo" not in results[0].values()


def test_a_twin_that_comes_later_does_not_take_the_name_of_the_first() -> None:
    found = named("w", "Echo", "echo", held={"echo": "w__echo"})

    assert found["echo"] == "w__echo"
    assert re.fullmatch(r"w__Echo_[0-9a-f]{8}", found["Echo"])


def test_a_name_made_to_look_like_the_digest_of_another_is_told_apart() -> None:
    imitation = named("w", "a.b")["a.b"].removeprefix("w__")

    found = named("w", "a.b", imitation)

    assert len({public.casefold() for public in found.values()}) == 2


def test_an_alias_keeps_its_name_from_everybody_else() -> None:
    assert named("w", "echo", taken=("w__echo",))["echo"] != "w__echo"


def test_two_servers_never_meet() -> None:
    slugs, names = ["a", "a-b", "b", "a-"], ["b__c", "c", "_c", "__c", "b_c", "a__c", "-c"]
    found = [public for slug in slugs for public in named(slug, *names).values()]

    assert len(set(found)) == len(slugs) * len(names)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "x" * 129,
        "../x",
        "a..b",
        "a\x00",
        "a\n",
        "a\r",
        "p\u0430ypal",
        "a\u200b",
        "ä",
        "a:b",
        "a$",
        None,
        7,
        ["a"],
    ],
)
def test_a_name_that_is_none_is_refused_with_the_reason(name: object) -> None:
    assert refusal_of_name("tool", name)
    assert refusal_of_name("prompt", name)


@pytest.mark.parametrize("name", ["a", "A-b_c.d/e", "x" * 128, "1"])
def test_a_name_that_is_one_is_taken(name: str) -> None:
    assert refusal_of_name("tool", name) == ""


@pytest.mark.parametrize(
    "uri", ["", "no scheme", "a b:c", "file:", "x:" + "y" * 1000, "file:///a b", "file:///\n", None]
)
def test_a_resource_needs_a_uri(uri: object) -> None:
    assert refusal_of_name("resource", uri)


def test_a_resource_is_known_by_its_uri_and_its_server() -> None:
    assert public_names("resource", "w", ["file:///a"], held={}) == {"file:///a": "w+file:///a"}

"""A list costs the same number of queries however many rows it shows, and never counts a whole table of events."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.core.staff.paginator import COUNTED_AT_MOST, CappedPaginator
from apps.usage.models import UsageEvent
from tests.factories import factory_of
from tests.factories.registry import ServerFactory
from tests.staff.rooms import enter, list_url, pages, rows_of

MANY = 12
QUERIES_AT_MOST = 16
SMALL = {"accounts.Organization", "accounts.LoginFailure"}


def queries_of(client, address: str) -> list[str]:
    """The statements that a page needs."""
    with CaptureQueriesContext(
        connection,
    ) as caught:
        assert client.get(address).status_code == 200
    return [query["sql"] for query in caught]


def add(model, organization, number: int) -> None:
    """More rows of this model, each with relations of its own."""
    make = factory_of(model)
    if make is None or model._meta.label in ("accounts.Organization", "accounts.User"):
        return
    is_of_server = any(field.name == "server" and field.is_relation for field in model._meta.get_fields())
    for _ in range(number):
        make(server=ServerFactory(organization=organization)) if is_of_server else make(organization=organization)


@pytest.mark.parametrize("who", ["alice", "root"])
def test_no_list_asks_once_for_each_row(alice, who, request):
    rows_of(alice.organization)
    client = enter(request.getfixturevalue(who))

    for model, _ in pages():
        if client.get(list_url(model)).status_code != 200:
            continue
        few = queries_of(client, list_url(model))
        add(model, alice.organization, MANY)
        many = queries_of(client, list_url(model))
        assert len(many) <= len(few) + 1, (model, "\n".join(many))
        assert len(many) <= QUERIES_AT_MOST, (model, len(many), "\n".join(many))


def test_lists_of_events_count_no_further_than_ten_thousand(alice):
    rows_of(alice.organization)
    client = enter(alice)

    for model, page in pages():
        if page.paginator is not CappedPaginator:
            continue
        answer = client.get(list_url(model))
        if answer.status_code != 200:
            continue
        counts = [
            sql
            for sql in queries_of(client, list_url(model))
            if "COUNT(" in sql and f'FROM "{model._meta.db_table}"' in sql
        ]
        own = [sql for sql in counts if "LIMIT" not in sql]
        assert not own, (model, own)
        assert page.date_hierarchy is None


def test_every_table_that_grows_with_traffic_has_a_capped_list():
    grows = {
        "audit.Entry",
        "usage.UsageEvent",
        "registry.HealthCheck",
        "registry.Discovery",
        "jobs.Job",
        "accounts.RefreshToken",
    }

    assert grows == {model._meta.label for model, page in pages() if page.paginator is CappedPaginator} - {
        "accounts.LoginFailure"
    }


def test_a_list_says_more_than_ten_thousand(alice, monkeypatch):
    monkeypatch.setattr("apps.core.staff.paginator.COUNTED_AT_MOST", 3)
    for _ in range(5):
        factory_of(UsageEvent)(organization=alice.organization)

    assert "more than 10,000" in enter(alice).get(list_url(UsageEvent)).text
    assert COUNTED_AT_MOST == 10_001


def test_lists_are_sorted_by_indexed_columns_only():
    for model, page in pages():
        if model._meta.app_label == "django_celery_beat" or model._meta.label in SMALL:
            continue
        indexed = {index.fields[0].lstrip("-") for index in model._meta.indexes} | {"pk", "id", model._meta.pk.name}
        indexed |= {field.name for field in model._meta.fields if field.db_index or field.unique}
        indexed |= {field.lstrip("-") for index in model._meta.indexes for field in index.fields}
        indexed |= {name for rule in model._meta.constraints for name in getattr(rule, "fields", ())} | {"user__email"}
        assert set(page.ordering) <= indexed | {f"-{name}" for name in indexed}, model
        assert page.sortable_by is not None, model

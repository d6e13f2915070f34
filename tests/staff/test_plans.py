"""Lists over tables without end read their page from an index: no row is sorted, and none is counted beyond a cap."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.audit.models import Entry
from apps.auth.models import LoginFailure
from apps.core.schemas import PageQuery
from apps.core.staff.paginator import COUNTED_AT_MOST
from apps.jobs.models import Job
from apps.usage import services as usage
from apps.usage.models import UsageEvent
from apps.usage.schemas import EventFilters
from tests.staff.rooms import enter, list_url

pytestmark = pytest.mark.django_db
ROWS = 1500
NOW = timezone.now()
DAY = timedelta(days=1)
OF_A_DAY = f"at_from_0={NOW - 3 * DAY:%Y-%m-%d}&at_to_0={NOW - 2 * DAY:%Y-%m-%d}"

LISTS = [
    (UsageEvent, "", "usage_at", "usage_org_at"),
    (UsageEvent, "p=3", "usage_at", "usage_org_at"),
    (UsageEvent, OF_A_DAY, "usage_at", "usage_org_at"),
    (UsageEvent, "status__exact=denied", "usage_status_at", "usage_org_status_at"),
    (UsageEvent, "q=server-3", "usage_server_at", "usage_org_server_at"),
    (Entry, "", "entry_at", "entry_chain_at"),
    (Entry, OF_A_DAY, "entry_at", "entry_chain_at"),
    (Entry, "outcome__exact=refused", "entry_outcome_at", "entry_chain_outcome_at"),
    (Entry, "q=server.approved", "entry_action_at", "entry_chain_action_at"),
    (Job, "", "job", "job_org_id"),
    (Job, "state__exact=failed", "job_state", "job_org_state"),
    (Job, "kind=registry.discover", "job_kind", "job_org_kind"),
    (Job, "subject=server:server-3", "job_subject", "job_org_subject"),
    (LoginFailure, "", "login_failure_at", ""),
]
"""A list, one of its filters, and the index that gives the page to a platform admin and to an organisation's staff."""


def fill(small: Any, large: Any) -> None:
    """Rows enough for a planner to choose: one organisation has few, and some of each kind are rare."""
    events, entries, jobs = [], [], []
    for number in range(ROWS):
        whose, at = large if number % 15 else small, NOW - number * timedelta(minutes=5)
        is_rare = number % 97 == 0
        events.append(
            UsageEvent(
                organization=whose, at=at, latency_ms=1, status="denied" if is_rare else "ok",
                server=f"server-{number % 40}",
            )
        )  # fmt: skip
        entries.append(
            Entry(
                chain_id=whose.pk, sequence=10_000 + number, at=at, outcome="refused" if is_rare else "done",
                action="server.approved" if is_rare else "server.updated", subject=f"server:server-{number % 50}",
            )
        )  # fmt: skip
        jobs.append(
            Job(
                organization=whose, state="failed" if is_rare else "completed", subject=f"server:server-{number % 50}",
                kind="registry.discover" if is_rare else "reports.write",
            )
        )  # fmt: skip
    failures = [LoginFailure(pk=f"{number}", last_failed_at=NOW - number * DAY) for number in range(500)]
    for model, rows in ((UsageEvent, events), (Entry, entries), (Job, jobs), (LoginFailure, failures)):
        model.objects.bulk_create(rows, batch_size=500)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def statements_of(client: Any, address: str, table: str) -> tuple[str, str]:
    """The one that reads the page, and the one that counts."""
    with CaptureQueriesContext(connection) as caught:
        answer = client.get(address)
    assert answer.status_code == 200, address
    found = [query["sql"] for query in caught if f'FROM "{table}"' in query["sql"]]
    [page] = [sql for sql in found if "ORDER BY" in sql]
    [count] = [sql for sql in found if "COUNT(" in sql]
    return page, count


def plan_of(statement: str) -> str:
    """What the database does for it, step by step."""
    is_postgres = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        if is_postgres:
            # A table this small it would rather sort; switched off, it sorts only where no index has the order.
            for way in ("seqscan", "bitmapscan", "sort", "incremental_sort"):
                cursor.execute(f"SET LOCAL enable_{way} = off")
            # Nor does it matter to a table that is read from memory where its rows lie: what counts is how many.
            cursor.execute("SET LOCAL random_page_cost = 1")
        cursor.execute(f"{'EXPLAIN (FORMAT JSON)' if is_postgres else 'EXPLAIN QUERY PLAN'} {statement}")
        rows = cursor.fetchall()
    return json.dumps(rows) if is_postgres else "\n".join(row[3] for row in rows)


def indexes_in(plan: str, table: str) -> set[str]:
    """The indexes by which the plan comes to the rows of a table; the name of the table stands for its primary key."""
    if connection.vendor == "postgresql":
        names = re.findall(r'"Index Name": "(\w+)"', plan)
    else:
        names = re.findall(rf"(?:{table}|U0) USING (?:COVERING )?INDEX (\w+)", plan)
    short = table.partition("_")[2]
    return {short if name.endswith("_pkey") or "autoindex" in name else name for name in names}


def sorts(plan: str) -> bool:
    """Whether rows are put in order after they were read."""
    return "TEMP B-TREE" in plan or bool(re.search(r'"Node Type": "(Incremental )?Sort"', plan))


@pytest.mark.parametrize("who", ["alice", "root"])
def test_each_list_reads_its_page_from_an_index_whatever_it_is_filtered_by(alice, bob, who, request):
    fill(alice.organization, bob.organization)
    client = enter(request.getfixturevalue(who))

    for model, query, of_all, of_one in LISTS:
        if who != "root" and not of_one:
            continue
        table = model._meta.db_table
        page, count = statements_of(client, f"{list_url(model)}?{query}", table)
        plan = plan_of(page)
        assert not sorts(plan), (query, page, plan)
        assert (of_all if who == "root" else of_one) in indexes_in(plan, table), (query, page, plan)
        assert f"LIMIT {COUNTED_AT_MOST}" in count, (query, count)
        assert indexes_in(plan_of(count), table), (query, count, plan_of(count))


@pytest.mark.parametrize("is_scoped", [True, False])
def test_the_history_of_a_row_is_found_by_its_id_and_its_names_alone(alice, bob, is_scoped):
    from apps.audit import services as audit
    from tests.factories.registry import ServerFactory

    fill(alice.organization, bob.organization)
    server = ServerFactory(organization=alice.organization, slug="server-3")
    entries = Entry.objects.for_org(alice.organization.pk) if is_scoped else Entry.objects.all()

    plan = plan_of(sql_of(audit.entries_about(entries, server)))

    assert {"entry_subject", "entry_subject_name"} <= indexes_in(plan, "audit_entry"), plan
    assert indexes_in(plan, "audit_entry") <= {"entry_subject", "entry_subject_name", "entry"}, plan
    assert "Seq Scan" not in plan


def test_the_calls_of_one_tool_are_read_from_an_index(alice, bob):
    fill(alice.organization, bob.organization)

    with CaptureQueriesContext(connection) as caught:
        usage.list_events(alice.actor, filters=EventFilters(name="time__now"), page=PageQuery(page=1))

    for sql in [query["sql"] for query in caught if "usage_usageevent" in query["sql"]]:
        assert indexes_in(plan_of(sql), "usage_usageevent") == {"usage_org_name_at"}, sql
        assert not sorts(plan_of(sql))


def sql_of(rows: Any) -> str:
    """The statement of a queryset as the database gets it."""
    with CaptureQueriesContext(connection) as caught:
        list(rows)
    return str(caught[-1]["sql"])


def test_the_overview_reads_sums_and_of_events_only_the_latest_denials(alice, bob, root):
    fill(alice.organization, bob.organization)

    for client in (enter(alice), enter(root)):
        with CaptureQueriesContext(connection) as caught:
            assert client.get("/admin/?span=30d").status_code == 200
        of_events = [query["sql"] for query in caught if "usage_usageevent" in query["sql"]]
        assert len(of_events) == 1
        assert of_events[0].endswith("LIMIT 6")
        assert not sorts(plan_of(of_events[0]))
        assert len(caught) <= 30, "\n".join(query["sql"] for query in caught)

"""An action and its entry are one: a process that is killed between them leaves both or neither."""

import random
import time

import pytest

from apps.audit import services as audit
from apps.audit.models import Entry
from apps.secrets.models import Secret
from tests.processes import start_python

KEEPER = """
import sys
from uuid import UUID
from apps.core.actor import system_actor
from apps.secrets import services as secrets

actor = system_actor(UUID(sys.argv[1]))
while True:
    secrets.keep(actor, purpose="server:weather", plain="correct horse")
    print("kept", flush=True)
"""


@pytest.mark.slow_process
@pytest.mark.both
@pytest.mark.django_db(transaction=True)
def test_a_process_killed_at_any_moment_leaves_as_many_entries_as_actions(alice):
    kept = 0
    for _ in range(3):
        keeper = start_python(KEEPER, str(alice.organization.id))
        assert keeper.stdout.readline() == "kept\n"
        time.sleep(random.uniform(0.05, 0.3))
        keeper.kill()
        kept += 1 + keeper.communicate()[0].count("kept\n")

    entries = Entry.objects.for_org(alice.organization.id).filter(action="secret.kept").count()
    assert entries == Secret.objects.for_org(alice.organization.id).count() >= kept
    assert audit.verify() == []

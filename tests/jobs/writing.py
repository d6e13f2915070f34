"""A process beside the platform that writes to its database again and again, out of a nursery."""

import itertools
import time
from uuid import UUID

from django.db import DatabaseError

from apps.audit import services as audit
from apps.core.actor import system_actor

PAUSE_SECONDS = 0.005


def write(organization_id: str, name: str) -> None:
    """Write entries to the journal until killed, and say so when one could not be written."""
    actor = system_actor(UUID(organization_id))
    for number in itertools.count():
        try:
            audit.record(actor, "writer.wrote", f"{name}:{number}")
        except DatabaseError as error:
            print(f"failed: {error}", flush=True)
        # SQLite's lock has no queue: writers who never pause can keep somebody waiting for longer than anybody does.
        time.sleep(PAUSE_SECONDS)

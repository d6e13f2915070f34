"""A process beside the platform that writes to its database all the time, out of a nursery."""

import itertools
from uuid import UUID

from django.db import DatabaseError

from apps.audit import services as audit
from apps.core.actor import system_actor


def write(organization_id: str, name: str) -> None:
    """Write entries to the journal until killed, and say so when one could not be written."""
    actor = system_actor(UUID(organization_id))
    for number in itertools.count():
        try:
            audit.record(actor, "writer.wrote", f"{name}:{number}")
        except DatabaseError as error:
            print(f"failed: {error}", flush=True)

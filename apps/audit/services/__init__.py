"""The verbs of the journal: record, list, verify; and the guard that the database keeps over it."""

from apps.audit.services.chain import Break, chains, verify
from apps.audit.services.changes import made_with, what_changes
from apps.audit.services.entries import entries_about, hold_chain, hold_chains, list_entries, record
from apps.audit.services.guard import drop_guard, guard_sql, make_guard

__all__ = [
    "Break",
    "chains",
    "drop_guard",
    "entries_about",
    "guard_sql",
    "hold_chain",
    "hold_chains",
    "list_entries",
    "made_with",
    "make_guard",
    "record",
    "verify",
    "what_changes",
]

"""The guard: triggers by which the database itself refuses to change the journal.

A migration that changes a column rebuilds the table on SQLite and loses its triggers: end it with `make_guard`.
"""

from django.db.backends.base.base import BaseDatabaseWrapper

_REFUSAL = "The journal is append-only."

_SQLITE = {
    "audit_entry_no_update": "BEFORE UPDATE ON audit_entry",
    "audit_entry_no_delete": "BEFORE DELETE ON audit_entry",
    # INSERT OR REPLACE deletes the old row without its delete trigger.
    "audit_entry_no_replace": "BEFORE INSERT ON audit_entry WHEN EXISTS (SELECT 1 FROM audit_entry"
    " WHERE id = NEW.id OR (chain_id = NEW.chain_id AND sequence = NEW.sequence))",
    "audit_head_no_delete": "BEFORE DELETE ON audit_chainhead",
    "audit_head_one_step": "BEFORE UPDATE ON audit_chainhead"
    " WHEN NEW.chain_id <> OLD.chain_id OR NEW.sequence <> OLD.sequence + 1",
    "audit_head_no_replace": "BEFORE INSERT ON audit_chainhead WHEN NEW.sequence <> 0"
    " OR EXISTS (SELECT 1 FROM audit_chainhead WHERE chain_id = NEW.chain_id AND sequence <> 0)",
}
_SQLITE_MAKE = [
    f"CREATE TRIGGER {name} {when} BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END" for name, when in _SQLITE.items()
]
_SQLITE_DROP = [f"DROP TRIGGER IF EXISTS {name}" for name in _SQLITE]

_POSTGRESQL_MAKE = [
    "CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS"
    f" $$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'integrity_constraint_violation'; END $$",
    "CREATE TRIGGER audit_entry_no_change BEFORE UPDATE OR DELETE ON audit_entry"
    " FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_entry_no_truncate BEFORE TRUNCATE ON audit_entry"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_head_no_delete BEFORE DELETE ON audit_chainhead FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_head_one_step BEFORE UPDATE ON audit_chainhead FOR EACH ROW"
    " WHEN (NEW.chain_id <> OLD.chain_id OR NEW.sequence <> OLD.sequence + 1) EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_head_no_truncate BEFORE TRUNCATE ON audit_chainhead"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
]
_POSTGRESQL_DROP = [
    *(f"DROP TRIGGER IF EXISTS {name} ON audit_entry" for name in ("audit_entry_no_change", "audit_entry_no_truncate")),
    *(
        f"DROP TRIGGER IF EXISTS {name} ON audit_chainhead"
        for name in ("audit_head_no_delete", "audit_head_one_step", "audit_head_no_truncate")
    ),
    "DROP FUNCTION IF EXISTS audit_refuse()",
]


def guard_sql(vendor: str) -> tuple[list[str], list[str]]:
    """The statements that take the guard away and those that set it up, for `sqlite` or `postgresql`."""
    if vendor == "sqlite":
        return _SQLITE_DROP, _SQLITE_MAKE
    return _POSTGRESQL_DROP, _POSTGRESQL_MAKE


def drop_guard(connection: BaseDatabaseWrapper) -> None:
    """Let the journal be changed. Migrations and tests use it; nothing else has a reason to."""
    _execute(connection, guard_sql(connection.vendor)[0])


def make_guard(connection: BaseDatabaseWrapper) -> None:
    """Refuse every change of the journal from now on; it may be called again."""
    drop, make = guard_sql(connection.vendor)
    _execute(connection, [*drop, *make])


def _execute(connection: BaseDatabaseWrapper, statements: list[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)

"""How a migration is applied and taken back: whole or not at all, and never with a loss that nobody asked for.

Django notes most migrations as applied in a transaction of its own, after that of the migration. A process that was
killed between the two left a migration that could neither be repeated nor taken back. Here both are one transaction.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError
from django.db import models, transaction
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.operations import AddField, CreateModel
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState


class Executor(MigrationExecutor):
    """Django's, with every step in one transaction, and a look at the rows before a way back."""

    may_lose_data = False

    def migrate(self, targets: Any, plan: Any = None, *args: Any, **options: Any) -> Any:
        """Carry out the plan; raises CommandError, before anything changes, for a way back that would lose rows."""
        plan = self.migration_plan(targets) if plan is None else plan
        if not (self.may_lose_data or options.get("fake")):
            self.refuse_losses(plan)
        return super().migrate(targets, plan, *args, **options)

    def apply_migration(self, state: Any, migration: Any, *args: Any, **options: Any) -> Any:
        """Apply it and note it."""
        with self._whole(migration):
            return super().apply_migration(state, migration, *args, **options)

    def unapply_migration(self, state: Any, migration: Any, *args: Any, **options: Any) -> Any:
        """Take it back and note it."""
        with self._whole(migration):
            return super().unapply_migration(state, migration, *args, **options)

    def refuse_losses(self, plan: list[tuple[Migration, bool]]) -> None:
        """Raise CommandError when taking back what the plan takes back would lose what rows say."""
        losses = [loss for migration, backwards in plan if backwards for loss in self._losses(migration)]
        if losses:
            raise CommandError(
                "Going back would lose data:\n"
                + "\n".join(f"  {loss}" for loss in losses)
                + "\nBack up the database first; then repeat the command with --lose-data."
            )

    def _losses(self, migration: Migration) -> Iterator[str]:
        after = self.loader.project_state((migration.app_label, migration.name))
        for operation in migration.operations:
            count = self._rows_lost(operation, migration.app_label, after)
            if count:
                yield f"{migration.app_label}.{migration.name}: {_told(operation)} of {count} row{'s'[: count > 1]}"

    def _rows_lost(self, operation: Operation, label: str, after: ProjectState) -> int:
        """How many rows say something that the operation's way back would drop."""
        if isinstance(operation, AddField):
            rows = _rows(after, label, operation.model_name, self.connection.alias)
            return _saying_something(rows, operation.field, operation.name).count() if rows is not None else 0
        if isinstance(operation, CreateModel):
            rows = _rows(after, label, operation.name, self.connection.alias)
            return rows.count() if rows is not None else 0
        return 0

    @contextlib.contextmanager
    def _whole(self, migration: Migration) -> Iterator[None]:
        """One transaction, unless the migration wants none. SQLite must forget foreign keys before one begins."""
        if not migration.atomic:
            yield
            return
        self.connection.disable_constraint_checking()
        try:
            with transaction.atomic(using=self.connection.alias):
                yield
        finally:
            self.connection.enable_constraint_checking()


def _rows(state: ProjectState, label: str, name: str, alias: str) -> "models.QuerySet[Any] | None":
    """The rows of a model as it was then; none where it has no table of its own or is gone from the state."""
    if (label, name.lower()) not in state.models:
        return None
    model = state.apps.get_model(label, name)
    return model._base_manager.using(alias) if model._meta.managed and not model._meta.proxy else None


def _saying_something(rows: Any, field: "models.Field[Any, Any]", name: str) -> Any:
    """The rows in which a field differs from what it would be made with again."""
    said = rows.exclude(**{f"{name}__isnull": True})
    return said.exclude(**{name: field.get_default()}) if field.has_default() else said


def _told(operation: Operation) -> str:
    if isinstance(operation, AddField):
        return f"{operation.model_name}.{operation.name}"
    return str(getattr(operation, "name", operation)).lower()

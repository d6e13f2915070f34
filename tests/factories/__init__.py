"""One factory for every tenant model, found by its name: `factory_of(Server)`."""

import pkgutil
from importlib import import_module
from typing import Any

from django.db.models import Model
from factory.django import DjangoModelFactory

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def factory_of(model: type[Model]) -> type[DjangoModelFactory[Any]] | None:
    """The factory that makes rows of this model, or None."""
    found = [factory for factory in _every(DjangoModelFactory) if factory._meta.model is model]
    return found[0] if found else None


def _every(kind: type[Any]) -> list[type[Any]]:
    return [each for child in kind.__subclasses__() for each in (child, *_every(child))]

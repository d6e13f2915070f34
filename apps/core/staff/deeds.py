"""Deeds: what staff can do to a row, as a button on its page and as an action on its list."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from django import forms

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Deed:
    """What a deed says of itself; the doing is a method of the staff page: `(actor, row)` or `(actor, row, form)`.

    The method returns the sentence to show, or a response of its own. Deeds are done by POST only. `seen` names what
    the person looked at, such as a digest: the deed is refused when that has changed meanwhile. With `confirms`,
    whoever opens its page proves first that it is them, before they type anything; the service asks for the same.
    """

    label: str
    permission: str
    icon: str = "play_arrow"
    tone: str = "plain"
    question: str = ""
    form: type[forms.Form] | None = None
    is_offered: Callable[[Any], bool] | None = None
    is_for_platform_admins: bool = False
    confirms: bool = False
    in_lists: bool = True
    seen: Callable[[Any], str] | None = None
    name: str = ""

    @property
    def asks_first(self) -> bool:
        """Whether a page comes before the deed: a question, or values to fill in."""
        return bool(self.question or self.form)


def deed(label: str, *, permission: str, **options: Any) -> Callable[[Method], Method]:
    """Make a method of a staff page a deed."""

    def mark(method: Method) -> Method:
        method.deed = Deed(label, permission, name=method.__name__, **options)  # type: ignore[attr-defined]
        return method

    return mark


def deeds_of(page: type) -> Iterator[Deed]:
    """The deeds of a staff page, in the order in which they are written."""
    seen: set[str] = set()
    for kind in page.__mro__:
        for name, value in vars(kind).items():
            found = getattr(value, "deed", None)
            if isinstance(found, Deed) and name not in seen:
                seen.add(name)
                yield replace(found, name=name)

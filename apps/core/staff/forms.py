"""Forms whose saving is a service."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.db.models import Model
from django.forms import BoundField
from django.utils.text import Truncator

from apps.core.errors import ConfirmationNeeded, ServiceError
from apps.core.staff.fields import SecretField

if TYPE_CHECKING:
    RowForm = forms.ModelForm[Any]
else:
    RowForm = forms.ModelForm

Save = Callable[["ServiceForm"], Model]

LONGEST_QUOTE = 200


class ServiceForm(RowForm):
    """Checks what the fields can check, then lets a service save; what the service refuses is shown at its field.

    The form of a row carries what it showed. Only what differs from that is saved, so that nobody puts an old value
    back over a colleague's; where both changed the same field, the second is told, and saves once more to replace it.
    """

    save_by_service: Save

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.instance._state.adding:
            return
        for bound in self:
            is_told = not self.is_bound or bound.html_initial_name in self.data
            bound.field.show_hidden_initial = is_told and not isinstance(bound.field, SecretField)

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        self._refuse_to_overwrite()
        if self.errors:
            return
        try:
            self.instance = self.save_by_service(self)
        except ConfirmationNeeded:
            raise
        except ServiceError as error:
            add_refusal(self, error)

    def _refuse_to_overwrite(self) -> None:
        data: Any = self.data
        for bound in [self[name] for name in self.changed_data]:
            if not bound.field.show_hidden_initial or not _has_changed_meanwhile(bound):
                continue
            if bound.field.has_changed(bound.initial, bound.data):
                said = f"Changed meanwhile. It reads now: {_quote(bound)}. Save again to replace it."
                self.add_error(bound.name, said)
            self.data = data = data.copy()
            data[bound.html_initial_name] = _as_sent(bound)

    def validate_unique(self) -> None:
        """Left to the service, which knows the organisation."""

    def validate_constraints(self) -> None:
        """Left to the service, which knows the organisation."""

    @property
    def changed_values(self) -> dict[str, Any]:
        """The cleaned values that differ from what the form showed, or from the row where it does not say."""
        return {name: self.cleaned_data[name] for name in self.changed_data if name in self.cleaned_data}


def add_refusal(form: forms.Form | RowForm, error: ServiceError) -> None:
    """Show what a service refused, at the fields it names and otherwise above the form."""
    fields: Mapping[str, list[str]] = error.details.get("fields") or {}
    elsewhere = []
    for name, messages in fields.items():
        if name in form.fields:
            form.add_error(name, messages)
        else:
            elsewhere.extend(messages)
    if elsewhere or not fields:
        form.add_error(None, elsewhere or [error.message])


def _has_changed_meanwhile(bound: BoundField) -> bool:
    """Whether the row differs from what the form showed."""
    shown = bound.form.data[bound.html_initial_name]
    return bound.field.has_changed(_with_plain_lines(bound.initial), _with_plain_lines(shown))


def _as_sent(bound: BoundField) -> Any:
    """The row's value as the form sends it."""
    value = bound.field.hidden_widget().format_value(bound.field.prepare_value(bound.initial))
    return "" if value is None else value


def _quote(bound: BoundField) -> str:
    """The row's value for people."""
    if isinstance(bound.initial, bool):
        return "on" if bound.initial else "off"
    value = bound.field.prepare_value(bound.initial)
    if isinstance(bound.field, forms.ChoiceField):
        choices: Any = bound.field.choices
        value = dict(choices).get(value, value)
    return f"“{Truncator(value).chars(LONGEST_QUOTE)}”" if value not in (None, "") else "nothing"


def _with_plain_lines(value: Any) -> Any:
    """Browsers end each line of a text with two characters."""
    return value.replace("\r\n", "\n") if isinstance(value, str) else value

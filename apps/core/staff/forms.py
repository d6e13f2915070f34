"""Forms whose saving is a service."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.db.models import Model

from apps.core.errors import ConfirmationNeeded, ServiceError

if TYPE_CHECKING:
    RowForm = forms.ModelForm[Any]
else:
    RowForm = forms.ModelForm

Save = Callable[["ServiceForm"], Model]


class ServiceForm(RowForm):
    """Checks what the fields can check, then lets a service save; what the service refuses is shown at its field."""

    save_by_service: Save

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            self.instance = self.save_by_service(self)
        except ConfirmationNeeded:
            raise
        except ServiceError as error:
            add_refusal(self, error)

    def validate_unique(self) -> None:
        """Left to the service, which knows the organisation."""

    def validate_constraints(self) -> None:
        """Left to the service, which knows the organisation."""

    @property
    def changed_values(self) -> dict[str, Any]:
        """The cleaned values that differ from what the form showed."""
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

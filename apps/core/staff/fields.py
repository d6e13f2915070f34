"""Form fields in which people write lists and pairs as lines of text, not as JSON."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget


class WordsField(forms.CharField):
    """A list of words, written with commas between them."""

    widget = UnfoldAdminTextInputWidget

    def prepare_value(self, value: Any) -> Any:
        """The list as one line."""
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        """The words, each once, in their order."""
        if isinstance(value, list | tuple):
            return list(value)
        parts = (super().to_python(value) or "").split(",")
        return list(dict.fromkeys(part.strip() for part in parts if part.strip()))

    def validate(self, value: Any) -> None:
        """Only a required field minds an empty list."""
        if self.required and not value:
            raise forms.ValidationError(self.error_messages["required"], code="required")

    def run_validators(self, value: Any) -> None:
        """Check each word."""
        for each in value:
            super().run_validators(each)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compare the lists, not how they are written."""
        return bool(list(initial or []) != self.to_python(data))


class LinesField(WordsField):
    """A list of texts, one in a line, such as a program and its arguments."""

    widget = UnfoldAdminTextareaWidget

    def prepare_value(self, value: Any) -> Any:
        """The list as lines."""
        return "\n".join(map(str, value)) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        """The lines that are not empty."""
        if isinstance(value, list | tuple):
            return list(value)
        return [line.strip() for line in (forms.CharField.to_python(self, value) or "").splitlines() if line.strip()]


class PairsField(forms.CharField):
    """Names and values, `NAME=value` in each line."""

    widget = UnfoldAdminTextareaWidget

    def prepare_value(self, value: Any) -> Any:
        """The pairs as lines."""
        return "\n".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else value

    def to_python(self, value: Any) -> Any:
        """The pairs as a mapping; a line without an equals sign is refused."""
        if isinstance(value, dict):
            return value
        lines = [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]
        if any("=" not in line.lstrip("=") for line in lines):
            raise forms.ValidationError("Write NAME=value, one pair in each line.", code="invalid")
        return {name.strip(): text.strip() for name, _, text in (line.partition("=") for line in lines)}

    def validate(self, value: Any) -> None:
        """Only a required field minds no pairs."""
        if self.required and not value:
            raise forms.ValidationError(self.error_messages["required"], code="required")

    def run_validators(self, value: Any) -> None:
        """Check each name and value."""
        for each in (*value, *value.values()):
            super().run_validators(each)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compare the mappings; what cannot be read counts as changed."""
        try:
            return bool(dict(initial or {}) != self.to_python(data))
        except forms.ValidationError:
            return True


class SecretField(forms.CharField):
    """A value that is written and never shown again, not even after a mistake elsewhere in the form."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("widget", UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}))
        super().__init__(strip=options.pop("strip", False), **options)

"""Each app says in one sentence what it is for."""

import importlib
import re

import pytest
from django.apps import apps

OURS = [config for config in apps.get_app_configs() if config.name.startswith("apps.")]


def is_one_sentence(text: str | None) -> bool:
    """Whether the text begins with a capital letter, ends with a full stop and has none before."""
    return bool(text) and re.fullmatch(r"[A-Z][^.!?\n]*\.", text.strip()) is not None


@pytest.mark.parametrize("config", OURS, ids=lambda config: config.label)
def test_the_docstring_of_an_app_is_one_sentence(config):
    assert is_one_sentence(importlib.import_module(config.name).__doc__)
    assert is_one_sentence(type(config).__doc__)


def test_two_sentences_are_not_one():
    assert not is_one_sentence("One thing. Another.")
    assert not is_one_sentence("no capital letter.")
    assert not is_one_sentence(None)

"""Each test begins with a writer that has seen nothing."""

import pytest

from apps.usage.services import writer


@pytest.fixture(autouse=True)
def _fresh_writer(monkeypatch):
    fresh = writer._Writer()
    monkeypatch.setattr(writer, "_writer", fresh)
    yield fresh
    fresh.stop()

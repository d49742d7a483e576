"""What all tests of rules have in common."""

from __future__ import annotations

import pytest

from ..processor_time import counted


@pytest.fixture(autouse=True)
def processor_time(monkeypatch):
    """Have statements take as long as they compute: rules judge by the time, and others do, too."""
    with counted(monkeypatch) as clock:
        yield clock

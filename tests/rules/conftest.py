"""What all tests of rules have in common."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def undisturbed(processor_time):
    """Rules judge by the time, and other programs take some of it."""

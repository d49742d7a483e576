"""Fixtures of the faults."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request):
    """Each driver in turn."""
    return request.param


@pytest.fixture
def watched(driver, fresh_story, watch):
    """A watched app on a copy of the story's database, which the test may change."""
    return watch(fresh_story.url_for(driver))

"""Fixtures of the faults."""

from __future__ import annotations

import pytest

from .own_server import own_server


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request):
    """Each driver in turn."""
    return request.param


@pytest.fixture
def watched(driver, fresh_story, watch):
    """A watched app on a copy of the story's database, which the test may change."""
    return watch(fresh_story.url_for(driver))


@pytest.fixture(scope="package")
def small_server():
    """A server with a few small tables, for tests that leave it as it was."""
    with own_server() as server:
        yield server

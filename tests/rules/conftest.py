"""What all tests of rules have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ..databases import Database
from ..servers import FIRST, HYPOPG, Server
from .rule_in_app import RuleInApp


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of rules: what a rule finds depends on the server, and not on libraries."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.server)


#: The driver that a server is asked through, where any is enough.
DRIVER_OF = {FIRST: "psycopg2", HYPOPG: "psycopg"}


@pytest.fixture
def driver(request: pytest.FixtureRequest, any_server: Server) -> str:
    """The driver that the app uses."""
    named = getattr(request, "param", None) or request.module.RULE.driver
    return named or DRIVER_OF[any_server.name]


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, any_server: Server) -> Iterator[Database]:
    """The tables of the module's rule, which no test changes, on each server in turn."""
    yield from request.module.RULE.tables.copy(any_server)


@pytest.fixture
def copy(request: pytest.FixtureRequest, any_server: Server) -> Iterator[Callable[[], Database]]:
    """Make a copy of these tables, for a test that changes them."""
    make = contextmanager(request.module.RULE.tables.copy)
    with ExitStack() as stack:
        yield lambda: stack.enter_context(make(any_server))


@pytest.fixture
def rule(
    request: pytest.FixtureRequest,
    shared: Database,
    driver: str,
    copy: Callable[[], Database],
    watch: Callable,
) -> RuleInApp:
    """The rule that the module names as `RULE`, in an app, on each server in turn."""
    return RuleInApp(request.module.RULE, shared, driver, copy, watch)

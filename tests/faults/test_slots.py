"""All connection slots of the server are in use, or nearly all."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager

import pytest
import sqlalchemy as sa

from flask_planwatch.server import slots as module
from flask_planwatch.server.slots import FREE_CONNECTIONS

from ..models import Badge
from .comparing import LOGIN, Answer, accounts, compare
from .own_server import own_server

pytestmark = pytest.mark.slow

#: Slots that are not reserved for superusers.
SLOTS = 8

#: All slots: those, two that are reserved, and the one of who looks on.
ALL_SLOTS = SLOTS + 3


@pytest.fixture(scope="module")
def server():
    with own_server(max_connections=ALL_SLOTS, superuser_reserved_connections=2) as server:
        server.execute(
            "CREATE ROLE app LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO app"
        )
        yield server


class Slots:
    """The slots of a server, looked at by a connection of its own that stays.

    The server takes a moment to end a connection, and its slot is in use until then.
    """

    def __init__(self, server, connection):
        self._server = server
        self._connection = connection

    def wait_for(self, used):
        """Wait until at most so many are in use."""
        deadline = time.monotonic() + 60
        while self._used() > used:
            assert time.monotonic() < deadline, f"{self._used()} are in use, not {used}"
            time.sleep(0.02)

    @contextmanager
    def others(self, count):
        """Hold so many connections, as other programs of the same role do."""
        self.wait_for(SLOTS - count)
        engine = sa.create_engine(self._server.url(user="app"), poolclass=sa.NullPool)
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(engine.connect())
            yield
            used = self._used()
        self.wait_for(used - count)

    def _used(self):
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        count = f"SELECT count(*) FROM pg_stat_activity WHERE {others}"
        return self._connection.exec_driver_sql(count).scalar()


def looked_at(server):
    """Yield the slots of a server that nobody else is connected to."""
    # No database of the app's, whose connections may be limited.
    url = sa.make_url(server.url()).set(database="template1")
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield Slots(server, connection)


@pytest.fixture
def slots(server):
    yield from looked_at(server)


@pytest.fixture(params=["server", "role", "database"])
def limited(request, server):
    """The server, with its limit set for all, for the role, or for the database."""
    limit = f"CONNECTION LIMIT {SLOTS}"
    if request.param == "server":
        yield server
        return
    name = "app" if request.param == "role" else "postgres"
    server.settings["max_connections"] = 100
    server.stop()
    server.start()
    server.execute(f"ALTER {request.param} {name} {limit}")
    yield server
    server.execute(f"ALTER {request.param} {name} CONNECTION LIMIT -1")
    server.settings["max_connections"] = ALL_SLOTS
    server.stop()
    server.start()


@pytest.fixture
def limited_slots(limited):
    yield from looked_at(limited)


@pytest.mark.parametrize("free", [0, 1, FREE_CONNECTIONS, FREE_CONNECTIONS + 1])
def test_only_a_connection_that_nobody_will_miss_is_taken(
    limited, limited_slots, watch, driver, free
):
    """The app needs a first connection at once, and then a second one, if there is one."""

    def scenario(visits):
        second = sa.create_engine(limited.url(driver, user="app"), poolclass=sa.NullPool)
        limited_slots.wait_for(0)
        with limited_slots.others(SLOTS - 1 - free):
            answers = [visits(LOGIN), visits(sa.select(Badge.id).where(Badge.id == 7))]
            assert [one.status for one in answers] == [200, 200]
            assert visits.watched.planwatch.flush(120)
            # One that PlanWatch took may stay if there are enough.
            limited_slots.wait_for(SLOTS - free + (free > FREE_CONNECTIONS))
            try:
                with second.connect():
                    answers.append("connected")
            except sa.exc.OperationalError:
                answers.append("refused")
        assert answers[2] == ("connected" if free else "refused")
        return answers

    visits = compare(watch, limited.url(driver, user="app"), scenario)
    stats = accounts(visits)
    assert stats["skipped"] == ({} if free > FREE_CONNECTIONS else {"server-unavailable": 2})


def test_a_connection_is_given_back_when_it_becomes_one_of_the_last(
    server, slots, watch, driver, monkeypatch
):
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.0)

    def scenario(visits):
        def visit():
            answers.append(visits(LOGIN))
            assert visits.watched.planwatch.flush(120)

        answers = []
        slots.wait_for(0)
        visit()
        with slots.others(SLOTS - 2):
            visit()
            with slots.others(1):
                visit()
        visit()
        assert set(answers) == {Answer(200, "[]")}
        return answers

    stats = accounts(compare(watch, server.url(driver, user="app"), scenario))
    assert (stats["inspected"], stats["skipped"]) == (2, {"server-unavailable": 2})


def test_a_role_that_may_not_count_connections(server, watch, driver):
    server.execute("REVOKE SELECT ON pg_stat_database FROM PUBLIC")
    try:
        visits = compare(
            watch, server.url(driver, user="app"), lambda visits: [visits(LOGIN), visits(LOGIN)]
        )
        assert accounts(visits)["inspected"] == 2
    finally:
        server.execute("GRANT SELECT ON pg_stat_database TO PUBLIC")

"""All connection slots of the server are in use, or nearly all."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from flask_planwatch.server import session
from flask_planwatch.server.session import FREE_CONNECTIONS

from ..models import Badge
from .comparing import LOGIN, Answer, accounts, compare
from .own_server import own_server

#: Slots that are not reserved for superusers.
SLOTS = 8


@pytest.fixture(scope="module")
def server():
    with own_server(max_connections=SLOTS + 2, superuser_reserved_connections=2) as server:
        server.execute(
            "CREATE ROLE app LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO app"
        )
        yield server


def others(server, count):
    """Hold so many connections, as other programs of the same role do."""
    stack = ExitStack()
    engine = sa.create_engine(server.url(user="app"), poolclass=sa.NullPool)
    for _ in range(count):
        connection = engine.connect()
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        # The server takes a moment to end it.
        gone = f"NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})"
        stack.callback(server.wait_until, gone)
        stack.enter_context(connection)
    return stack


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
    server.settings["max_connections"] = SLOTS + 2
    server.stop()
    server.start()


@pytest.mark.parametrize("free", [0, 1, FREE_CONNECTIONS, FREE_CONNECTIONS + 1])
def test_only_a_connection_that_nobody_will_miss_is_taken(limited, watch, driver, free):
    """The app needs a first connection at once, and then a second one, if there is one."""

    def scenario(visits):
        second = sa.create_engine(limited.url(driver, user="app"), poolclass=sa.NullPool)
        with others(limited, SLOTS - 1 - free):
            answers = [visits(LOGIN), visits(sa.select(Badge.id).where(Badge.id == 7))]
            assert [one.status for one in answers] == [200, 200]
            visits.watched.planwatch.flush(20)
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
    server, watch, driver, monkeypatch
):
    monkeypatch.setattr(session, "CHECK_SECONDS", 0.0)

    def scenario(visits):
        answers = [visits(LOGIN)]
        visits.watched.planwatch.flush(20)
        with others(server, SLOTS - 2):
            answers.append(visits(LOGIN))
            visits.watched.planwatch.flush(20)
            with others(server, 1):
                answers.append(visits(LOGIN))
                visits.watched.planwatch.flush(20)
        answers.append(visits(LOGIN))
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

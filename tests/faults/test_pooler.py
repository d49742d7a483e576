"""PgBouncer in transaction mode: each transaction may run on another connection of the server."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from flask_planwatch.failure import ServerError
from flask_planwatch.server.explain import Query
from flask_planwatch.server.hypopg import on_hypopg
from flask_planwatch.server.prepared import generic_plan
from flask_planwatch.server.session import Session

from .. import servers
from ..models import Badge
from .comparing import LOGIN, Answer, accounts, compare
from .own_server import own_server, pooler_for

pytestmark = [pytest.mark.slow, pytest.mark.versions]

#: What a session may leave behind on a connection of the server.
STATE = (
    "SELECT count(*) FROM pg_prepared_statements",
    "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY 1",
    "SELECT count(*) FROM pg_cursors",
    "SHOW transaction_read_only",
    "SHOW statement_timeout",
    "SHOW lock_timeout",
    "SHOW application_name",
)


@pytest.fixture(scope="module", params=[servers.FIRST, servers.HYPOPG])
def server(request):
    with own_server(request.param) as server:
        if request.param == servers.HYPOPG:
            server.execute("CREATE EXTENSION hypopg")
        yield server


@pytest.fixture(params=[1, 3])
def pooler(server, request):
    """The folder of a PgBouncer with so many connections to the server."""
    with pooler_for(server, request.param) as folder:
        yield folder


def options(driver):
    """Return what an app needs behind PgBouncer: psycopg 3 must not prepare statements."""
    connect = {"prepare_threshold": None} if driver == "psycopg" else {}
    return {"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": connect}}


def test_the_app_and_planwatch_share_its_connections(pooler, watch, driver):
    def scenario(visits):
        with visits.served() as load:
            answers = [load(LOGIN, sa.select(Badge.id).where(Badge.id == 7), times=24)]
        visits.watched.planwatch.flush(120)
        answers += [visits(question) for question in STATE]
        assert answers[0] == {Answer(200, "[[7]]"): 24}
        assert {one.status for one in answers[1:]} == {200}
        return answers

    url = f"postgresql+{driver}://postgres@/postgres?host={pooler}"
    visits = compare(watch, url, scenario, **options(driver))
    assert accounts(visits)["skipped"] == {}
    # To wait for PgBouncer takes time as well, which another rule may wonder at.
    assert "functional-predicate" in {one.rule for one in visits.watched.findings()}


def test_nothing_of_a_trial_that_failed_stays(server, driver):
    """A hypothetical index and a prepared statement outlive the transaction that made them."""
    server.execute(
        "CREATE OR REPLACE FUNCTION slow() RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
        "$$ BEGIN PERFORM pg_sleep(10); RETURN 'x'; END $$"
    )
    slow = "SELECT * FROM badge WHERE owner = slow()"
    with pooler_for(server, 3) as folder:
        url = f"postgresql+{driver}://postgres@/postgres?host={folder}"
        engine = sa.create_engine(url, **options(driver)["SQLALCHEMY_ENGINE_OPTIONS"])
        session = Session(engine, url=None, statement_timeout_ms=1000, lock_timeout_ms=50)
        on_each(engine, "SELECT 1")
        with pytest.raises(ServerError, match="57014"):
            generic_plan(session, slow, ())
        if server.scalar("SELECT count(*) FROM pg_extension WHERE extname = 'hypopg'"):
            query = Query("SELECT * FROM badge", None)
            create = "SELECT hypopg_create_index('CREATE INDEX ON badge (id)'), 1 / 0"
            with pytest.raises(ServerError, match="22012"), on_hypopg(session, query, ()) as trials:
                trials.transaction.run(create)
            assert on_each(engine, "SELECT count(*) FROM hypopg()") == [0, 0, 0]
        assert on_each(engine, "SELECT count(*) FROM pg_prepared_statements") == [0, 0, 0]
        session.close()
        engine.dispose()


def on_each(engine, question):
    """Ask each of three connections of the server at once; they are opened for that."""
    with ExitStack() as stack:
        connections = [stack.enter_context(engine.connect()) for _ in range(3)]
        return [connection.exec_driver_sql(question).scalar() for connection in connections]

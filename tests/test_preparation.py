"""What is counted of repeated statements is what psycopg 3 really does with them."""

from __future__ import annotations

import gc

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_planwatch import PlanWatch
from flask_planwatch.capture import preparation as module
from flask_planwatch.capture.connection_info import info_of
from flask_planwatch.capture.preparation import MAX_COUNTED, MAX_SETS, Repetition
from flask_planwatch.failure import ServerError
from flask_planwatch.plan.figures import CUSTOM_PLANS, MAX_EXECUTIONS
from flask_planwatch.runtime.bounded import MemoryBound, RecentlyUsed
from flask_planwatch.server.prepared import Numbered

from .models import Badge

ONE = sa.select(Badge.id).where(Badge.id == sa.bindparam("wanted", 1))
PREPARED = "SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements"


@pytest.fixture
def watched(story, watch):
    return watch(story.url_for("psycopg"), PLANWATCH_SAMPLE_INTERVAL=300)


@pytest.fixture
def connection(watched):
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        yield connection


def watch_of(app):
    """Return what listens to the only engine that an app watches."""
    (engine,) = app.extensions["planwatch"]._engines.values()
    return engine.watch


def watched_statistics(watched):
    """Return what is counted of each statement."""
    return watch_of(watched.app)._statistics.recent.values()


def repetition(watched):
    """Return what is known of the only statement that the driver may prepare."""
    (found,) = [one.repetition for one in watched_statistics(watched) if one.repetition]
    return found


def prepared(connection):
    """Return what the server has prepared for the driver, asked without being counted."""
    driver = connection.connection.dbapi_connection
    return driver.cursor().execute(PREPARED, prepare=False).fetchall()


def test_a_commit_keeps_what_a_rollback_forgets(watched, connection):
    for _ in range(6):
        connection.execute(ONE)
        connection.commit()
    assert len(prepared(connection)) == 1
    assert (repetition(watched).most, repetition(watched).commits) == (6, 6)
    connection.execute(ONE)
    connection.rollback()
    assert repetition(watched).rollbacks == 1
    connection.execute(ONE)
    assert repetition(watched).most == 7
    assert prepared(connection) == []


def test_nothing_runs_after_the_end_of_a_transaction_or_connection(watched, connection):
    running = watch_of(watched.app)._repetitions.running
    connection.execute(ONE)
    assert len(running) == 1
    connection.rollback()
    assert not running
    connection.execute(ONE)
    assert len(running) == 1
    connection.invalidate()
    connection.close()
    watched.db.engine.dispose()
    gc.collect()
    assert not running


def test_a_savepoint_that_is_rolled_back_forgets_as_well(watched, connection):
    for _ in range(6):
        connection.execute(ONE)
    assert len(prepared(connection)) == 1
    savepoint = connection.begin_nested()
    connection.execute(ONE)
    savepoint.rollback()
    connection.execute(ONE)
    assert prepared(connection) == []
    assert repetition(watched).most == 7


def test_autocommit_forgets_nothing(story, watch):
    watched = watch(
        story.url_for("psycopg"), SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "AUTOCOMMIT"}
    )
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        for _ in range(8):
            connection.execute(ONE)
            connection.rollback()
        assert len(prepared(connection)) == 1
    assert repetition(watched).most == 8
    assert repetition(watched).autocommit


def test_each_connection_counts_for_itself(watched):
    with watched.app.app_context():
        for _ in range(2):
            with watched.db.engine.connect() as connection:
                for _ in range(4):
                    connection.execute(ONE)
                connection.commit()
                connection.invalidate()
    assert repetition(watched).most == 4


def test_the_driver_may_prepare_at_once(story, watch):
    options = {"connect_args": {"prepare_threshold": 0}}
    watched = watch(story.url_for("psycopg"), SQLALCHEMY_ENGINE_OPTIONS=options)
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        for _ in range(CUSTOM_PLANS + 1):
            connection.execute(ONE)
        ((_, generic, custom),) = prepared(connection)
        assert (generic, custom) == (1, 5)
        known = repetition(watched).preparation("psycopg", "", None)
        assert known.reached
        # These parameters belong to another text.
        assert known.sets == ()


def test_each_app_that_watches_an_engine_counts_by_itself(watched, connection):
    other = Flask("other")
    planwatch = PlanWatch(other)
    planwatch.watch(watched.db.engine, other)
    try:
        for _ in range(3):
            connection.execute(ONE)
        connection.commit()
        connection.execute(ONE)
        connection.rollback()
        (others,) = [one.repetition for one in watch_of(other)._statistics.recent.values()]
        for one in (repetition(watched), others):
            assert (one.most, one.commits, one.rollbacks) == (4, 1, 1)
    finally:
        planwatch.unwatch(watched.db.engine, other)


def test_as_many_statements_are_followed_as_the_driver_keeps(watched, connection):
    for number in range(MAX_COUNTED + 20):
        connection.execute(sa.text(f"SELECT {number} WHERE 1 = :one"), {"one": 1})
    counts = info_of(connection.connection)[watch_of(watched.app)._repetitions]
    assert len(counts.statements) == MAX_COUNTED


def test_psycopg2_counts_nothing(story, watch):
    watched = watch(story.url_for("psycopg2"))
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        connection.execute(ONE)
        connection.commit()
    assert all(one.repetition is None for one in watched_statistics(watched))


class Strange:
    """A value that cannot be compared."""

    def __eq__(self, other):
        raise TypeError("no")

    __hash__ = None


def test_sets_of_parameters_are_kept_once():
    known = Repetition()
    for value in (1, 2, 1, 1, 3):
        known.keep("t", {"a": value}, 100)
    assert known.sets == ({"a": 1}, {"a": 2}, {"a": 3})
    assert list(known.order) == [0, 1, 0, 0, 2]
    assert not known.keep("t", {"a": 1}, 100)
    assert known.keep("t", {"a": Strange()}, 100)
    assert known.keep("t", {"a": Strange()}, 100)
    assert known.size == 500
    known.keep("another text", {"a": 1}, 100)
    assert known.sets == ({"a": 1},)
    assert known.size == 100


def test_what_is_kept_is_bounded():
    known = Repetition()
    for number in range(1000):
        known.keep("t", {"a": number}, 100)
    assert len(known.sets) == MAX_SETS
    for _ in range(1000):
        known.keep("t", {"a": 0}, 100)
    assert len(known.order) == MAX_EXECUTIONS


def test_sets_of_all_statements_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(module, "_SETS", RecentlyUsed(MemoryBound(10_000)))
    many = [Repetition() for _ in range(100)]
    for number in range(8):
        for known in many:
            known.keep("t", {"a": number}, 500)
    assert 0 < sum(known.size for known in many if known.sets) <= 10_000
    first = many[0]
    assert first.sets == ()
    # One that had to make place begins anew.
    assert first.keep("t", {"a": 1}, 500)
    assert (first.sets, list(first.order), first.size) == (({"a": 1},), [0], 500)


@pytest.mark.parametrize(
    ("text", "parameters", "sent", "values"),
    [
        ("a = %(x)s AND b = %(y)s", {"y": 2, "x": 1}, "a = $1 AND b = $2", [1, 2]),
        ("a = %(x)s OR b = %(x)s", {"x": 1}, "a = $1 OR b = $1", [1]),
        ("a = %s AND b = %s", (1, 2), "a = $1 AND b = $2", [1, 2]),
        ("a %% 2 = %(x)b", {"x": 1}, "a % 2 = $1", [1]),
        ("a LIKE '%%(x)s' AND b = %(x)t", {"x": 1}, "a LIKE '%(x)s' AND b = $1", [1]),
    ],
)
def test_placeholders_are_read_as_psycopg_reads_them(text, parameters, sent, values):
    from psycopg._queries import PostgresQuery
    from psycopg.adapt import Transformer

    numbered = Numbered(text, parameters)
    assert (numbered.text, numbered.values) == (sent, values)
    query = PostgresQuery(Transformer())
    query.convert(text, parameters)
    assert query.query.decode() == numbered.text


def test_parameters_that_do_not_fit():
    with pytest.raises(ServerError):
        Numbered("a = %(x)s", {"y": 1})
    with pytest.raises(ServerError):
        Numbered("a = %s AND b = %s", (1,))
    with pytest.raises(ServerError):
        Numbered("a IN ($1, $2)", (1, 2), ["a_1"])


def test_literals_take_the_place_of_parameters():
    numbered = Numbered("a = %(x)s AND b = %(y)s AND c = %(x)s", {"x": 1, "y": 2})
    assert numbered.with_literals({0: "'one'"}) == "a = 'one' AND b = $2 AND c = 'one'"


def test_only_so_many_executions_are_followed_between_two_inspections(
    watched, connection, monkeypatch
):
    monkeypatch.setattr("flask_planwatch.capture.preparation.MAX_FOLLOWED", 3)
    for _ in range(5):
        connection.execute(ONE)
        connection.rollback()
    assert watched.planwatch.flush(120, watched.app)
    assert (repetition(watched).rollbacks, repetition(watched).followed) == (4, 3)
    (statistics,) = watch_of(watched.app)._statistics.plain.values()
    assert statistics.calls == 5
    statistics.sampled = 0.0
    # It is followed again from its next inspection on.
    for _ in range(3):
        connection.execute(ONE)
        connection.rollback()
    assert (repetition(watched).rollbacks, repetition(watched).followed) == (6, 2)


def test_an_empty_list_does_not_end_the_following(watched, connection):
    statement = sa.select(Badge.id).where(Badge.id.in_(sa.bindparam("ids", expanding=True)))
    for ids in ([], [1], [], [2], [3]):
        connection.execute(statement, {"ids": ids})
    (statistics,) = watched_statistics(watched)
    assert (statistics.calls, statistics.repetition.followed) == (5, 3)

"""What the statements of an application tell of the state of its connection."""

from __future__ import annotations

import pytest

from flask_planwatch.session_state import (
    MAX_CHANGES,
    NOTHING_SET,
    ConnectionState,
    SessionState,
    may_change_state,
    set_by,
)


def after(*statements, autocommit=False):
    """Return the state of a connection after statements, each a text or one with parameters."""
    state = ConnectionState()
    for statement in statements:
        text, parameters = statement if isinstance(statement, tuple) else (statement, None)
        assert may_change_state(text), text
        state.note(text, parameters, autocommit=autocommit)
    return state


def names(state):
    return [change.name for change in state.current()]


@pytest.mark.parametrize(
    ("text", "name", "local"),
    [
        ("SET search_path TO tenant_1, public", "search_path", False),
        ("/* a */ -- b\n set Search_Path = 'tenant_1'", "search_path", False),
        ('SET "search_path" TO x;', "search_path", False),
        ("SET SCHEMA 'tenant_1'", "search_path", False),
        ("SET LOCAL app.tenant = '42'", "app.tenant", True),
        ("SET SESSION app.tenant TO 42", "app.tenant", False),
        ("SET ROLE bob", "role", False),
        ("SET LOCAL ROLE bob", "role", True),
        ("SET SESSION AUTHORIZATION bob", "authorization", False),
        ("SET LOCAL TIME ZONE 'UTC'", "timezone", True),
        ("SET enable_seqscan = off", "enable_seqscan", False),
        ("RESET search_path", "search_path", False),
        ("RESET SESSION AUTHORIZATION", "authorization", False),
        ("SELECT set_config('app.tenant', '4,2', true)", "app.tenant", True),
        (
            "SELECT pg_catalog.set_config('app.tenant', CAST('a' AS text), 'f');",
            "app.tenant",
            False,
        ),
    ],
)
def test_one_change(text, name, local):
    ((change),) = after(text).current()
    assert (change.name, change.local, change.unknown) == (name, local, "")
    assert change.text == text


@pytest.mark.parametrize(
    ("text", "parameters", "name", "local"),
    [
        (
            "SELECT set_config(%(a)s, %(b)s, %(c)s) AS x",
            {"a": "A.b", "b": 1, "c": True},
            "a.b",
            True,
        ),
        ("SELECT set_config(%(a)s::VARCHAR, %(b)s, false)", {"a": "a.b", "b": 1}, "a.b", False),
        ("SELECT set_config(%s, %s, %s)", ("a.b", "x", False), "a.b", False),
        ("SELECT set_config('a.b', %s, %s)", ("x", True), "a.b", True),
        (
            "SELECT set_config($1::VARCHAR, $2::VARCHAR, $3::BOOLEAN)",
            ("a.b", "x", True),
            "a.b",
            True,
        ),
    ],
)
def test_what_is_set_by_a_parameter(text, parameters, name, local):
    (change,) = after((text, parameters)).current()
    assert (change.name, change.local, change.unknown) == (name, local, "")
    assert change.parameters == parameters


def test_several_at_once():
    state = after("SELECT set_config('a.b', 'x', true), set_config('c.d', 'y', false)")
    assert [(one.name, one.local) for one in state.current()] == [("a.b", True), ("c.d", False)]


@pytest.mark.parametrize(
    "text",
    [
        "SET a.b = 1; SET c.d = 2",
        "SELECT set_config('a.b', name, true) FROM tenants",
        "SELECT set_config(name, 'x', true)",
        "WITH x AS (SELECT set_config('a.b', '1', false)) SELECT * FROM orders",
        "DO $$ BEGIN PERFORM set_config('a.b', '1', false); END $$",
        "DO $$ BEGIN SET LOCAL search_path TO x; END $$",
    ],
)
def test_what_cannot_be_repeated_is_unknown(text):
    assert NOTHING_SET.changed(after(text).current()).unknown


@pytest.mark.parametrize(
    "text",
    [
        "SET TRANSACTION READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "SET statement_timeout = 5",
        "SET LOCAL application_name = 'x'",
        "SELECT set_config('statement_timeout', '5', true)",
        "DO $$ BEGIN UPDATE a SET b = 1; END $$",
        "CREATE EXTENSION pg_trgm",
    ],
)
def test_what_changes_no_plan(text):
    assert after(text).current() == ()


@pytest.mark.parametrize(
    "text",
    ["SELECT temp FROM readings", "UPDATE a SET b = 1", "INSERT INTO temps VALUES (1)", "COPY a"],
)
def test_what_is_not_even_read(text):
    assert not may_change_state(text)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("CREATE TEMP TABLE IF NOT EXISTS mine (a text)", "mine"),
        ('CREATE TEMPORARY TABLE "My Own" (a text)', "My Own"),
        ("CREATE TABLE pg_temp.mine (a text)", "mine"),
        ("create or replace temp view mine as select 1", "mine"),
        ("SELECT 1 AS a INTO TEMP mine", "mine"),
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON public.mine (a)", "mine"),
        ("ALTER TABLE ONLY public.mine ADD b text", "mine"),
        ("TRUNCATE mine", "mine"),
    ],
)
def test_a_relation_that_only_the_connection_sees(text, hidden):
    assert NOTHING_SET.changed(after(text).current()).hidden == {hidden}


@pytest.mark.parametrize(
    ("statements", "left"),
    [
        (["SET a.b = 1", "COMMIT"], ["a.b"]),
        (["SET LOCAL a.b = 1", "COMMIT"], []),
        (["SET a.b = 1", "ROLLBACK"], []),
        (["SET a.b = 1", "END", "SET c.d = 1", "ABORT"], ["a.b"]),
        (["SET a.b = 1", "SAVEPOINT s", "SET c.d = 1", "ROLLBACK TO SAVEPOINT s"], ["a.b"]),
        (["SAVEPOINT s", "SET a.b = 1", "ROLLBACK TO s", "SET c.d = 1", "COMMIT"], ["c.d"]),
        (["SET a.b = 1", "COMMIT", "RESET ALL"], ["all"]),
        (["SET ROLE x", "COMMIT", "RESET ALL"], ["role", "all"]),
        (["SET a.b = 1", "CREATE TEMP TABLE t ()", "COMMIT", "DISCARD ALL"], ["all"]),
        (["SET a.b = 1", "SET c.d = 1", "SET a.b = 2"], ["c.d", "a.b"]),
        (["CREATE TABLE t ()", "COMMIT"], []),
        (["CREATE TEMP TABLE t ()", "COMMIT"], ["relation t"]),
        (["CREATE TEMP TABLE t () ON COMMIT DROP", "COMMIT"], []),
    ],
)
def test_transactions(statements, left):
    assert names(after(*statements)) == left


def test_events_of_a_savepoint():
    state = after("SET a.b = 1")
    state.savepoint("first")
    state.note("SET c.d = 1", None, autocommit=False)
    state.savepoint("second")
    state.note("SET e.f = 1", None, autocommit=False)
    state.released("second")
    assert names(state) == ["a.b", "c.d", "e.f"]
    state.rolled_back("first")
    assert names(state) == ["a.b"]
    state.rolled_back("older than all that is known")
    assert names(state) == []


def test_autocommit():
    state = after("SET a.b = 1", "SET LOCAL c.d = 1", autocommit=True)
    state.rolled_back()
    assert names(state) == ["a.b"]


def test_the_place_is_what_decides_which_table_is_meant():
    assert after("SET LOCAL app.tenant = 1").place is None
    one, other = after("SET search_path TO a"), after("SET search_path TO b")
    assert one.place != other.place
    assert one.place == after("SET app.tenant = 1", "SET search_path TO a").place
    one.rolled_back()
    assert one.place is None


def test_what_goes_on_without_end_is_unknown():
    state = after(*(f"SET a.b{number} = 1" for number in range(MAX_CHANGES + 1)))
    assert NOTHING_SET.changed(state.current()).unknown == "it changes without end"
    state.rolled_back()
    assert state.current() == ()


def test_savepoints_without_end_are_merged():
    state = after("SET a.b = 1")
    for number in range(MAX_CHANGES * 3):
        state.savepoint(str(number))
    assert len(state._pending) <= MAX_CHANGES
    assert names(state) == ["a.b"]


def test_a_search_path_that_the_server_reports_needs_no_repetition():
    state = SessionState(search_path="a").changed(
        after("SET search_path TO a", "SET a.b = 1").current()
    )
    assert [change.name for change in state.changes] == ["a.b"]
    assert state.search_path == "a"


def test_listeners_of_a_pool():
    def pings(connection, *_):
        """Set up nothing."""
        connection.cursor().execute("SELECT 1")

    def sets(connection, *_):
        with connection.cursor() as cursor:
            cursor.execute("SET app.tenant = 1")

    def moves(connection, *_):
        def run(cursor):
            cursor.execute(f"SET search_path TO {connection}")

        run(connection.cursor())

    def counts(*_):
        print("set")

    class Listens:
        def sets(self, connection, *_):
            connection.cursor().execute("SELECT set_config('app.tenant', '1', false)")

    assert set_by(pings) == set_by(counts) == set_by(len) == set()
    assert set_by(sets) == set_by(Listens().sets) == {"something"}
    assert set_by(moves) == {"search_path"}

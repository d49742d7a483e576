"""What the statements of an application tell of the state of its connection."""

from __future__ import annotations

import pytest

from flask_planwatch.capture.connection_state import (
    MAX_CHANGES,
    NOTHING_SET,
    ConnectionState,
    SessionState,
)
from flask_planwatch.capture.state_change import MAX_LENGTH, MAX_VALUE, may_change_state


def after(*statements, autocommit=False):
    """Return the state of a connection after statements, each a text or one with parameters."""
    state = ConnectionState()
    for statement in statements:
        text, parameters = statement if isinstance(statement, tuple) else (statement, None)
        assert may_change_state(text), text
        state.apply(text, parameters, in_transaction=not autocommit)
    return state


def names(state):
    return [change.name for change in state.current()]


@pytest.mark.parametrize(
    ("text", "name", "value", "local"),
    [
        ("SET search_path TO tenant_1, public", "search_path", "tenant_1, public", False),
        ("/* a */ -- b\n set Search_Path = 'Tenant 1'", "search_path", '"Tenant 1"', False),
        ('SET "search_path" TO "$user", X;', "search_path", '"$user", x', False),
        ("SET SCHEMA 'tenant_1'", "search_path", "tenant_1", False),
        ("SET search_path TO DEFAULT", "search_path", None, False),
        ("SET LOCAL app.tenant = 'it''s'", "app.tenant", "it's", True),
        ("SET SESSION app.tenant TO 42", "app.tenant", "42", False),
        ("SET app.tenant TO -4.5", "app.tenant", "-4.5", False),
        ("SET ROLE bob", "role", "bob", False),
        ("SET LOCAL ROLE 'Bob'", "role", "Bob", True),
        ("SET ROLE NONE", "role", "none", False),
        ("SET role = bob", "role", "bob", False),
        ("SET SESSION AUTHORIZATION bob", "session_authorization", "bob", False),
        ("SET LOCAL TIME ZONE 'UTC'", "timezone", "UTC", True),
        ("SET TIME ZONE LOCAL", "timezone", None, False),
        ("SET DateStyle TO ISO, DMY", "datestyle", "iso, dmy", False),
        ("SET enable_seqscan = off", "enable_seqscan", "off", False),
        ("RESET search_path", "search_path", None, False),
        ("RESET ROLE", "role", None, False),
        ("RESET SESSION AUTHORIZATION", "session_authorization", None, False),
        ("RESET ALL", "all", None, False),
        ("SELECT set_config('app.tenant', '4,2', true)", "app.tenant", "4,2", True),
        ("SELECT set_config('app.tenant', NULL, true)", "app.tenant", None, True),
        (
            "SELECT pg_catalog.set_config('app.tenant', CAST('a' AS text), 'f') AS x;",
            "app.tenant",
            "a",
            False,
        ),
    ],
)
def test_one_change(text, name, value, local):
    ((change),) = after(text).current()
    assert change == (name, value, local, "", False)


@pytest.mark.parametrize(
    ("text", "parameters", "value"),
    [
        ("SELECT set_config(%(a)s, %(b)s, %(c)s) AS x", {"a": "A.b", "b": "y", "c": True}, "y"),
        ("SELECT set_config(%(a)s::VARCHAR, %(b)s, 'on')", {"a": "a.b", "b": "y"}, "y"),
        ("SELECT set_config(%s, %s, %s)", ("a.b", "x", True), "x"),
        ("SELECT set_config('a.b', %s, %s)", ("x", True), "x"),
        ("SELECT set_config($1::VARCHAR, $2::VARCHAR, $3::BOOLEAN)", ("a.b", "x", True), "x"),
        ("SET LOCAL a.b TO %s", ("It's",), "It's"),
        ("SET LOCAL a.b TO %(x)s", {"x": 5}, "5"),
    ],
)
def test_what_is_set_by_a_parameter(text, parameters, value):
    assert after((text, parameters)).current() == (("a.b", value, True, "", False),)


def test_several_at_once():
    state = after(
        "SELECT set_config('a.b', 'x', true) AS tenant, "
        "pg_catalog.set_config('c.d', 'y', false) AS \"Role\""
    )
    changes = [(change.name, change.local, change.unknown) for change in state.current()]
    assert changes == [("a.b", True, ""), ("c.d", False, "")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SET a.b = 1; SET c.d = 2", "something"),
        ("SELECT 1 FROM orders; /* then */ SET c.d = 2", "something"),
        ("SELECT set_config('a.b', name, true) FROM tenants", "a.b"),
        ("SELECT set_config('a.b', '1', true) FROM tenants", "a.b"),
        ("SELECT set_config('a.b', login('alice'::text), true)", "a.b"),
        ("SELECT set_config('a.b', (SELECT login('bob')), true)", "a.b"),
        ("SELECT set_config('a.b', 'x' || current_user, true)", "a.b"),
        ("/* a /* b */ c */ SET search_path TO x", "something"),
        ("SELECT set_config('a.b', E'\\x41', true)", "a.b"),
        ("SELECT set_config('a.b', U&'\\0041', true)", "a.b"),
        ("SELECT set_config('a.b', '\\x41', true)", "a.b"),
        ("SELECT set_config('a.b', ' a '::char(1), true)", "a.b"),
        ("SELECT set_config(name, 'x', true)", "something"),
        ("SELECT set_config('a.b', '1', random() < 0.5)", "a.b"),
        ("SELECT coalesce(set_config('a.b', '1', true), 'x')", "a.b"),
        ("WITH x AS (SELECT set_config('a.b', '1', false)) SELECT * FROM orders", "a.b"),
        ("DO $$ BEGIN PERFORM set_config('a.b', '1', false); END $$", "something"),
        ("DO $$ BEGIN SET LOCAL search_path TO x; END $$", "something"),
        ("SET a.b TO E'x'", "a.b"),
        ("DO LANGUAGE plpython3u $$ x() $$", "something"),
        ("EXECUTE x(1)", "something"),
        ("EXPLAIN ANALYZE EXECUTE x", "something"),
        ("CREATE SCHEMA x", "something"),
        ("SET a.b TO 'x' 'y'", "a.b"),
        ("SET a.b TO x, y", "a.b"),
        ("SET TIME ZONE INTERVAL '1' HOUR", "timezone"),
        (f"SET a.b TO '{'x' * (MAX_VALUE + 1)}'", "a.b"),
        (f"SET a.b TO '{'x' * MAX_LENGTH}'", "something"),
        (f"SELECT set_config('a.b', '{'x' * MAX_LENGTH}', true)", "something"),
    ],
)
def test_what_cannot_be_repeated_is_unknown(text, name):
    state = NOTHING_SET.changed(after(text).current())
    assert state.unknown
    assert [change.name for change in state.changes] == [name]
    assert name in state.unknown or name == "something"


def test_what_is_set_inside_of_what_is_set():
    state = after("SELECT set_config('a.b', set_config('c.d', 'x', true), true)")
    assert [(one.name, bool(one.unknown)) for one in state.current()] == [
        ("a.b", True),
        ("c.d", True),
    ]


@pytest.mark.parametrize("value", [1.5, ["a"], object(), b"x", "with \0"])
def test_a_parameter_of_which_the_driver_makes_something_else(value):
    (change,) = after(("SELECT set_config('a.b', %s, true)", (value,))).current()
    assert change.unknown


def test_what_is_known_again():
    state = after("SELECT set_config('a.b', now()::text, false)", "SET a.b = 1")
    assert not NOTHING_SET.changed(state.current()).unknown
    state = after("SET a.b = 1", "SET LOCAL a.b = now()")
    assert NOTHING_SET.changed(state.current()).unknown
    state.committed()
    assert not NOTHING_SET.changed(state.current()).unknown


@pytest.mark.parametrize(
    ("text", "functions"),
    [
        ("SELECT enter_tenant('a')", {"enter_tenant"}),
        ("SELECT app.enter_tenant('from a') AS x, now()", {"enter_tenant"}),
        ("SELECT * FROM enter_tenant(%(a)s)", {"enter_tenant"}),
        ("CALL enter_tenant('a')", {"enter_tenant"}),
        ("CALL \"Enter\"/**/('a')", {"Enter"}),
        ('SELECT "a""b"(1), " c " = "d", x.now()', {'a"b', "now"}),
        ("SELECT ENTER(1) FROM (VALUES (1)) v, LATERAL f(1)", {"enter", "f"}),
        ("EXPLAIN VERBOSE SELECT enter(1)", {"enter"}),
        ("DO 'BEGIN PERFORM \"Enter\"(1) -- it(1)\n; END'", {"Enter"}),
    ],
)
def test_functions_that_the_application_calls_by_themselves(text, functions):
    state = after(text)
    assert NOTHING_SET.changed(state.current()).functions == functions
    state.rolled_back()
    assert state.current() == ()


@pytest.mark.parametrize(
    "text",
    [
        "SET TRANSACTION READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "SET statement_timeout = 5",
        "SET LOCAL application_name = 'x'",
        "SELECT set_config('statement_timeout', '5', true)",
        "SET LOCAL transaction_read_only = off",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SET default_transaction_read_only TO off",
        "SET lock_timeout TO DEFAULT",
        "SET idle_in_transaction_session_timeout = 0",
        "SET session_replication_role = replica",
        "SET row_security = on",
        "RESET statement_timeout",
        "SELECT $$ set_config('a.b', 'x', true) $$, 'set_config(1, 2, 3)'",
        "CREATE FUNCTION f() RETURNS text AS $$ SELECT set_config('a.b', '1', true) $$",
        "DO $$ BEGIN UPDATE a SET b = 1; END $$",
        "CREATE EXTENSION pg_trgm",
        f"INSERT INTO notes VALUES ('set_config(1); SET a.b = 1 {'x' * MAX_LENGTH}')",
    ],
)
def test_what_changes_no_plan(text):
    assert after(text).current() == ()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT temp FROM readings",
        "UPDATE a SET b = 1",
        "INSERT INTO temps VALUES (1)",
        "COPY a",
        "SELECT count(*), lower('a') FROM orders",
        "SELECT similarity(a, b) FROM orders",
        "SELECT pg_catalog.version(), now(), nextval('x')",
        "SELECT pg_advisory_xact_lock(%s)",
        "WITH a AS (SELECT f(b) FROM c) SELECT * FROM a",
        "BEGIN",
        "EXPLAIN SELECT 1",
        "SELECT 'f(1)' /* f(1) */ -- f(1)",
        "INSERT INTO temp VALUES (1)",
        """SELECT a FROM "kid's" WHERE ("it's" = %(it's_1)s OR "a""b" = %(a"b_1)s)""",
    ],
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
        ("DROP MATERIALIZED VIEW IF EXISTS mine", "mine"),
        ("SELECT 1 AS a INTO GLOBAL TEMP TABLE mine FROM b", "mine"),
        ("SELECT 1 AS a INTO mine FROM b", "mine"),
        ("TRUNCATE TABLE ONLY mine", "mine"),
        (f"CREATE TABLE mine (a text DEFAULT '{'x' * MAX_LENGTH}')", "mine"),
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
        (["CREATE SCHEMA x", "COMMIT"], []),
        (["SAVEPOINT s", "SET a.b = 1", "RELEASE s", "ROLLBACK TO s"], []),
        (["ALTER TABLE a RENAME TO b"], ["relation a", "relation b"]),
        (["ALTER TABLE a RENAME b TO c"], ["relation a"]),
        (["TRUNCATE a, ONLY b"], ["relation a", "relation b"]),
        (["SET a.b = 1", "SET LOCAL a.b = 2", "COMMIT"], ["a.b"]),
        (["SET LOCAL a.b = 2", "SET a.b = 1", "COMMIT"], ["a.b"]),
        (["SET a.b = 1", "PREPARE TRANSACTION 'x'", "ROLLBACK"], ["a.b"]),
        (["SET ROLE x", "COMMIT", "RESET ALL"], ["role", "all"]),
        (
            ["SET a.b = 1", "CREATE TEMP TABLE t ()", "COMMIT", "DISCARD ALL"],
            ["session_authorization", "role", "all"],
        ),
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
    state.apply("SET c.d = 1", None, in_transaction=True)
    state.savepoint("second")
    state.apply("SET e.f = 1", None, in_transaction=True)
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
    assert after("SET LOCAL app.tenant = 1").path_and_role is None
    one, other = after("SET search_path TO a"), after("SET search_path TO b")
    assert one.path_and_role != other.path_and_role
    assert one.path_and_role == after("SET app.tenant = 1", "SET search_path TO a").path_and_role
    one.rolled_back()
    assert one.path_and_role is None


def test_what_goes_on_without_end_is_unknown():
    state = after(*(f"SET a.b{number} = 1" for number in range(MAX_CHANGES + 1)))
    assert f"more than {MAX_CHANGES} " in NOTHING_SET.changed(state.current()).unknown
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


def test_what_was_set_in_a_transaction_that_only_the_pool_ended():
    state = after("SET a.b = 1", "COMMIT", "SET LOCAL c.d = 1", "SET e.f = 1")
    state.returned(raw=False, in_transaction=False)
    assert [(one.name, bool(one.unknown), one.returned) for one in state.current()] == [
        ("a.b", False, True),
        ("e.f", True, True),
    ]
    state.apply("SET e.f = 2", None, in_transaction=False)
    assert NOTHING_SET.changed(state.current()).unknown == ""


def test_a_connection_that_the_application_had_without_an_engine():
    state = after("SET a.b = 1", "COMMIT")
    state.returned(raw=True, in_transaction=False)
    assert "raw_connection" in NOTHING_SET.changed(state.current()).unknown
    state.apply("RESET ALL", None, in_transaction=False)
    assert NOTHING_SET.changed(state.current()).unknown
    state.apply("DISCARD ALL", None, in_transaction=False)
    assert NOTHING_SET.changed(state.current()).unknown == ""


def test_errors_that_may_have_undone_what_was_set():
    state = after("SET a.b = 1")
    state.failed(in_commit=False, in_transaction=True)
    state.committed()
    assert NOTHING_SET.changed(state.current()).unknown
    state = after("SET a.b = 1")
    state.failed(in_commit=False, in_transaction=True)
    state.rolled_back()
    assert state.current() == ()
    state = after("SET a.b = 1", "COMMIT")
    state.failed(in_commit=True, in_transaction=False)
    assert NOTHING_SET.changed(state.current()).unknown

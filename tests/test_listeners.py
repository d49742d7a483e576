"""What the code of an event listener tells of what it may do to a connection."""

from __future__ import annotations

import functools
import logging
import os
import time
import types
from contextlib import closing, suppress

import psycopg
import psycopg2.extras
import pytest
import sqlalchemy as sa
import wrapt
from sqlalchemy import event

from flask_planwatch.server.connecting.effects import ANYTHING, HARMLESS, Effect
from flask_planwatch.server.connecting.listener_code import reads_context, takes_something
from flask_planwatch.server.connecting.listeners import _ENGINE_EVENTS as ENGINE_EVENTS
from flask_planwatch.server.connecting.listeners import effect_of, uses_connection

TENANT = "tenant_1"
MOVE = "SET search_path TO tenant_1"
seen = []
logger = logging.getLogger("tests")

PATH = Effect(frozenset({"search_path"}), undoes=True)
SETTING = Effect(frozenset({"app.tenant"}), undoes=True)
RESETS = Effect(frozenset(), undoes=True)


def counts(*_):
    print("SET search_path")


def keeps_time(connection, record, *_):
    record.info["since"] = time.monotonic()
    logger.debug("set %s", connection.closed)
    connection.autocommit = False


def pings(connection, *_):
    """SET up nothing."""
    with closing(connection.cursor()) as cursor, suppress(psycopg.Error):
        cursor.execute("SELECT 1")
        cursor.fetchone()


def limits(connection, *_, timeout=500):
    cursor = connection.cursor()
    cursor.execute(f"SET statement_timeout = {timeout}")
    cursor.execute("SET application_name = 'shop'")
    cursor.close()


def registers(connection, *_):
    psycopg2.extras.register_uuid(conn_or_curs=connection)


def sets(connection, *_):
    with connection.cursor() as cursor:
        cursor.execute("SET app.tenant = 1")


def sets_by_a_parameter(connection, *_):
    cursor = connection.cursor()
    cursor.execute("SELECT set_config('app.tenant', %s, false)", (TENANT,))


def moves(connection, *_):
    connection.cursor().execute("SET search_path TO " + TENANT)


def moves_by_format(connection, *_):
    connection.cursor().execute("SET search_path TO %s" % TENANT)  # noqa: UP031


def moves_inside(connection, *_):
    def run(cursor):
        cursor.execute(f'SET search_path TO "{TENANT}", public')

    run(connection.cursor())


def moves_by_helpers(connection, *_):
    moves(connection)


def moves_by_the_record(connection, record, *_):
    record.dbapi_connection.cursor().execute(MOVE)


def resets(connection, *_):
    connection.cursor().execute("DISCARD ALL")


def resets_by_the_driver(connection, *_):
    connection.reset()


def makes_sql(connection, *_):
    connection.cursor().execute(f"{seen} search_path TO x")


def makes_all_sql(connection, *_):
    connection.cursor().execute(" ".join(["SET", "ROLE", "x"]))


def calls_a_function(connection, *_):
    connection.cursor().execute("SELECT enter_tenant('a')")


def takes_sql(connection, *_, sql=MOVE):
    connection.cursor().execute(sql)


def hands_on(connection, *_):
    seen.append(connection)


def looks_at_all(connection, *_):
    seen.append(locals())


def unpacks(*arguments):
    arguments[0].cursor().execute(MOVE)


def sets_a_role(connection, *_):
    connection.set_session(readonly=True)


def is_recursive(connection, *_):
    is_recursive(connection)


def counts_in_info(connection, record, *_):
    record.info["checkouts"] = record.info.get("checkouts", 0) + 1
    record.info.setdefault("began", []).append(time.time())


def checks_the_process(connection, record, proxy):
    if record.info["pid"] != os.getpid():
        record.dbapi_connection = proxy.dbapi_connection = None
        raise sa.exc.DisconnectionError("of another process")


def uses_a_kept_cursor(connection, record, *_):
    record.info["cursor"].execute(MOVE)


def uses_a_kept_cursor_later(connection, record, *_):
    kept = record.info.get("kept")
    if kept is not None:
        kept.execute(MOVE)


def uses_a_kept_cursor_elsewhere(connection, record, *_):
    use(record.info["kept"])


def use(cursor):
    cursor.execute(MOVE)


def uses_a_kept_cursor_by_name(connection, record, *_):
    getattr(record.info["kept"], "execute")(MOVE)  # noqa: B009


def runs_kept_sql(connection, record, *_):
    cursor = connection.cursor()
    cursor.execute(record.info.get("sql"))
    cursor.close()


class Tenants(psycopg2.extensions.cursor):
    """Cursors that may set anything."""


def makes_cursors(connection, *_):
    connection.cursor_factory = Tenants


def makes_cursors_of_the_driver(connection, *_):
    connection.cursor_factory = psycopg2.extras.RealDictCursor


@wrapt.decorator
def moving(wrapped, instance, arguments, named):
    arguments[0].cursor().execute(MOVE)
    return wrapped(*arguments, **named)


@functools.wraps(sa.create_engine)
def tells_the_module_of_another(connection, *_):
    connection.cursor().execute("SET search_path TO a")


class Listens:
    sql = MOVE

    def uses_kept(self, connection, record, *_):
        self.use(record.info["kept"])

    def use(self, cursor):
        cursor.execute(self.sql)

    def counts(self, connection, *_):
        seen.append(self.sql)

    def moves(self, connection, *_):
        connection.cursor().execute(self.sql)

    def __call__(self, connection, *_):
        connection.cursor().execute("SET search_path TO a")


@pytest.mark.parametrize(
    ("listener", "effect"),
    [
        *((one, HARMLESS) for one in (counts, keeps_time, pings, limits, registers, seen.append)),
        *((one, PATH) for one in (moves, moves_by_format, moves_inside, moves_by_helpers)),
        *((one, PATH) for one in (moves_by_the_record, takes_sql, Listens())),
        *((one, SETTING) for one in (sets, sets_by_a_parameter)),
        *((one, RESETS) for one in (resets, resets_by_the_driver)),
        *((one, ANYTHING) for one in (makes_sql, makes_all_sql, hands_on, looks_at_all, unpacks)),
        *((one, ANYTHING) for one in (Listens().moves, sets_a_role, calls_a_function)),
        *((one, ANYTHING) for one in (moving(counts), moving(seen.append))),
        (tells_the_module_of_another, PATH),
        *((one, ANYTHING) for one in (is_recursive, psycopg.Connection.execute)),
        (Listens().counts, HARMLESS),
        *((one, HARMLESS) for one in (counts_in_info, checks_the_process)),
        *((one, ANYTHING) for one in (uses_a_kept_cursor, uses_a_kept_cursor_later)),
        *((one, ANYTHING) for one in (uses_a_kept_cursor_elsewhere, uses_a_kept_cursor_by_name)),
        *((one, ANYTHING) for one in (Listens().uses_kept, runs_kept_sql, makes_cursors)),
        (makes_cursors_of_the_driver, HARMLESS),
        (functools.partial(sets), SETTING),
        (functools.partial(counts, 1), HARMLESS),
        (lambda *_: None, HARMLESS),
    ],
    ids=lambda value: getattr(value, "__name__", None) and value.__name__,
)
def test_listeners_of_a_pool(listener, effect):
    found = effect_of(listener)
    if effect is not HARMLESS and "something" in found.sets:
        # Which settings besides cannot be told, and need not.
        found = ANYTHING
    assert found == effect


def runs(conn, *_):
    conn.execute(sa.text(MOVE))
    seen.append(conn.scalar(sa.select(1)))


def runs_raw(conn, *_):
    conn.connection.cursor().execute("SET search_path TO a")


def marks(conn, cursor, statement, parameters, context, executemany):
    context.began = conn.info.setdefault("began", time.perf_counter())
    seen.append((statement, parameters, context.executemany, context.began))


def goes_round(conn, cursor, statement, parameters, context, executemany):
    context.cursor.execute(MOVE)


def uses_a_kept_connection(conn, *_):
    conn.info["raw"].cursor().execute("SET LOCAL search_path TO a")


def runs_by_what_was_kept(conn, *_):
    conn.execute(sa.text("SELECT set_config('app.tenant', :t, true)"), {"t": conn.info["tenant"]})


class Holder:
    conn = None


def runs_by_another(conn, *_):
    Holder.conn = conn.info["raw"].cursor
    Holder.conn.execute(MOVE)


def sets_first(conn, cursor, statement, parameters, context, executemany):
    cursor.execute("SET app.tenant = 1")


@pytest.mark.parametrize(
    ("name", "listener", "effect"),
    [
        ("begin", runs, HARMLESS),
        ("engine_connect", runs, HARMLESS),
        ("begin", runs_by_what_was_kept, HARMLESS),
        ("begin", uses_a_kept_connection, ANYTHING),
        ("begin", runs_by_another, ANYTHING),
        ("begin", runs_raw, PATH),
        ("commit", hands_on, ANYTHING),
        ("before_cursor_execute", marks, HARMLESS),
        ("after_cursor_execute", marks, HARMLESS),
        ("before_cursor_execute", goes_round, PATH),
        ("before_cursor_execute", sets_first, SETTING),
    ],
)
@pytest.mark.parametrize("options", [{}, {"once": True}, {"named": True}])
def test_listeners_of_an_engine(name, listener, effect, options):
    """SQLAlchemy wraps some; what it hands on otherwise may be anything."""
    engine = sa.create_engine("postgresql+psycopg2://")
    event.listen(engine, name, listener, **options)
    (attached,) = getattr(engine.dispatch, name)
    found = effect_of(attached, ENGINE_EVENTS[name])
    if "something" in found.sets:
        found = ANYTHING
    assert found == effect or (options.get("named") and found != HARMLESS)


def test_a_listener_of_sqlalchemy_is_known():
    engine = sa.create_engine("postgresql+psycopg2://")
    assert list(engine.pool.dispatch.connect) == [] or all(
        effect_of(listener) == HARMLESS for listener in engine.pool.dispatch.connect
    )
    assert uses_connection(engine.dialect.on_connect())


@pytest.mark.parametrize(
    ("listener", "uses"),
    [
        *((one, False) for one in (counts, Listens().counts, seen.append, lambda *_: None)),
        *((one, True) for one in (keeps_time, sets, pings, looks_at_all, unpacks, Listens())),
        *((one, False) for one in (counts_in_info, lambda _, record: record.info.pop("a", None))),
        *((one, True) for one in (uses_a_kept_cursor, uses_a_kept_cursor_elsewhere)),
        *((one, True) for one in (moves_by_the_record, checks_the_process, makes_cursors)),
        (lambda _, record: record.driver_connection, True),
        (lambda connection, _: connection.info, True),
        (functools.partial(sets), True),
        (object(), True),
    ],
)
def test_whether_a_listener_looks_at_its_connection(listener, uses):
    assert uses_connection(listener) is uses


def test_no_code_of_what_a_listener_names_runs():
    """Such as what a proxy stands for, which may be made at the first use."""
    made = []
    place = types.SimpleNamespace(lazy=wrapt.LazyObjectProxy(lambda: made.append(1)))

    def listener(connection, record):
        record.info["lazy"] = place.lazy

    assert uses_connection(listener) is False
    assert not takes_something(listener)
    assert not reads_context(listener)
    assert made == []

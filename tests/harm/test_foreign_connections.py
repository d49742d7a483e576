"""The application's connections are the application's, whoever makes them."""

from __future__ import annotations

import itertools
import operator
import queue
import sys
import time
from collections import deque
from functools import cache, partial, update_wrapper, wraps

import asyncpg
import psycopg
import psycopg2
import psycopg_pool
import pytest
import sqlalchemy as sa
import wrapt
from psycopg2.pool import ThreadedConnectionPool
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool, StaticPool

from flask_planwatch.server.connecting import connection
from flask_planwatch.server.connecting.connection import returns_nothing
from flask_planwatch.signals import statement_inspected

pytestmark = [pytest.mark.slow, pytest.mark.versions]

TABLE = (
    "CREATE TABLE kept (id int PRIMARY KEY)",
    "CREATE TABLE item (id int PRIMARY KEY, v int)",
    "INSERT INTO item SELECT g, g FROM generate_series(1, 5000) g",
    "ANALYZE item",
)


@pytest.fixture
def filled(database):
    database.execute(*TABLE)
    return database


def use(watched, number=5):
    """Read and write as an application does, and return the rows that were kept."""
    for one in range(number):
        with watched.app.app_context():
            watched.db.session.execute(sa.text(f"SELECT v, {one} FROM item WHERE v = 3")).all()
            watched.db.session.commit()
        assert watched.planwatch.flush(30)
        with watched.app.app_context():
            watched.db.session.execute(sa.text("INSERT INTO kept VALUES (:id)"), {"id": one})
            watched.db.session.commit()
    assert watched.planwatch.flush(30)


def call(wrapped, instance, arguments, named):
    """Do around a call what nobody knows."""
    return wrapped(*arguments, **named)


def is_skipped_by_name(watched, caplog):
    stats = watched.planwatch.stats()
    assert stats["inspected"] == 0
    assert stats["errors"] == 0
    assert set(stats["skipped"]) == {"shared-connection"}
    assert "PLANWATCH_DATABASE_URL" in caplog.text
    return True


class Returned(psycopg.Connection):
    """Goes back to its pool when it is closed, as `close_returns` has it since psycopg 3.3."""

    def close(self):
        pool = getattr(self, "_pool", None)
        if pool is None:
            super().close()
        else:
            pool.putconn(self)


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_a_pool_of_psycopg_gets_all_its_connections_back(filled, watch, caplog, size, autocommit):
    conninfo = filled.url_for("psycopg").replace("+psycopg", "")
    pool = psycopg_pool.ConnectionPool(
        conninfo,
        min_size=1,
        max_size=size,
        timeout=10,
        connection_class=Returned,
        open=True,
        kwargs={"autocommit": autocommit},
    )
    options = {"creator": pool.getconn, "poolclass": NullPool}
    watched = watch(filled.url_for("psycopg"), SQLALCHEMY_ENGINE_OPTIONS=options)
    use(watched)
    assert filled.scalar("SELECT count(*) FROM kept") == 5
    assert is_skipped_by_name(watched, caplog)
    connections = [pool.getconn(timeout=10) for _ in range(size)]
    assert {one.autocommit for one in connections} == {autocommit}
    assert {one.prepare_threshold for one in connections} == {5}
    for one in connections:
        pool.putconn(one)
    pool.close()


@pytest.mark.parametrize("first", ["the listener", "PlanWatch"])
def test_a_connection_that_do_connect_returns_is_left_alone(filled, watch, caplog, first):
    dsn = sa.make_url(filled.url).set(drivername="postgresql")
    pool = ThreadedConnectionPool(1, 1, dsn.render_as_string(hide_password=False))
    handed_out = []

    def from_pool(dialect, record, positional, named):
        handed_out.append(pool.getconn())
        return handed_out[-1]

    watched = watch(filled.url, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": StaticPool})
    with watched.app.app_context():
        engine = watched.db.engine
    if first == "the listener":
        watched.planwatch.unwatch(engine, watched.app)
    sa.event.listen(engine, "do_connect", from_pool)
    watched.planwatch.watch(engine, watched.app)
    use(watched)
    assert filled.scalar("SELECT count(*) FROM kept") == 5
    assert len(handed_out) == 1
    assert is_skipped_by_name(watched, caplog)
    pool.closeall()


def test_a_do_connect_listener_that_changes_what_the_driver_is_given_runs(filled, watch):
    """As one does that sets a token for the password."""
    named_so = []

    def set_token(dialect, record, positional, named):
        named["application_name"] = "token"
        named_so.append(dict(named))

    watched = watch(filled.url)
    with watched.app.app_context():
        sa.event.listen(watched.db.engine, "do_connect", set_token)
    use(watched, 2)
    assert watched.planwatch.stats()["inspected"] == 4
    assert len(named_so) == 2


class Vault:
    """Hands out each token once."""

    def __init__(self):
        self.tokens = [f"token {number}" for number in range(20)]

    def token(self):
        return self.tokens.pop()

    @property
    def left(self):
        return len(self.tokens)


def from_a_list():
    tokens = [f"token {number}" for number in range(20)]
    return (lambda *_: tokens.pop()), lambda: len(tokens)


def from_a_deque():
    tokens = deque(f"token {number}" for number in range(20))
    take = tokens.popleft
    return (lambda *_: take()), lambda: len(tokens)


def from_a_queue():
    tokens = queue.SimpleQueue()
    for number in range(20):
        tokens.put(f"token {number}")
    return (lambda *_: tokens.get(timeout=1)), tokens.qsize


def from_an_iterator():
    numbers = range(20)
    tokens = iter(numbers)
    return (lambda *_: f"token {next(tokens)}"), lambda: operator.length_hint(tokens)


def from_an_object():
    vault = Vault()
    return (lambda *_: vault.token()), lambda: vault.left


@pytest.mark.parametrize("name", ["do_connect", "connect"])
@pytest.mark.parametrize(
    "make", [from_a_list, from_a_deque, from_a_queue, from_an_iterator, from_an_object]
)
def test_no_token_is_taken_from_the_application(filled, watch, caplog, make, name):
    take, left = make()
    watched = watch(filled.url)

    def set_token(dialect, record, positional, named):
        named["application_name"] = take()

    def run_token(connection, record):
        connection.cursor().execute("SELECT set_config('app.token', %s, false)", (take(),))
        connection.commit()

    with watched.app.app_context():
        listener = set_token if name == "do_connect" else run_token
        sa.event.listen(watched.db.engine, name, listener)
    use(watched, 2)
    assert left() == 19
    assert is_skipped_by_name(watched, caplog)


def test_no_token_is_taken_by_a_listener_that_sqlalchemy_wraps(filled, watch, caplog):
    """As it does one that wants its arguments by name."""
    take, left = from_a_list()

    def run_token(dbapi_connection, **_):
        dbapi_connection.cursor().execute("SELECT set_config('app.token', %s, false)", (take(),))
        dbapi_connection.commit()

    watched = watch(filled.url)
    with watched.app.app_context():
        sa.event.listen(watched.db.engine, "connect", run_token, named=True)
    use(watched, 2)
    assert left() == 19
    assert is_skipped_by_name(watched, caplog)


def test_a_listener_that_writes_to_a_file_takes_nothing(filled, watch, capsys):
    """A file is an iterator, too."""

    def tell(dialect, record, positional, named):
        print("connects", file=sys.stderr)

    watched = watch(filled.url)
    with watched.app.app_context():
        sa.event.listen(watched.db.engine, "do_connect", tell)
    use(watched, 2)
    assert watched.planwatch.stats()["inspected"] == 4
    assert capsys.readouterr().err.count("connects") == 2


def test_a_token_that_is_kept_for_a_while_is_used(filled, watch):
    """As those of a cloud are: PlanWatch may ask for one as often as it connects."""
    kept = {}

    def token():
        if time.monotonic() > kept.get("until", 0):
            kept.update(token="one", until=time.monotonic() + 600)
        return kept["token"]

    def set_token(dialect, record, positional, named):
        named.pop("application_name", None)
        named["application_name"] = f"{token()} of connection {next(numbers)}"

    numbers = itertools.count()

    watched = watch(filled.url)
    with watched.app.app_context():
        sa.event.listen(watched.db.engine, "do_connect", set_token)
    use(watched, 2)
    assert watched.planwatch.stats()["inspected"] == 4


def test_a_module_in_the_place_of_the_driver_is_not_asked(filled, watch, caplog):
    class Pooled:
        """What a pool of another maker puts in the place of a driver."""

        def __init__(self):
            self.calls = 0

        def __getattr__(self, name):
            return getattr(psycopg2, name)

        def connect(self, *arguments, **named):
            self.calls += 1
            return psycopg2.connect(*arguments, **named)

    module = Pooled()
    watched = watch(filled.url, SQLALCHEMY_ENGINE_OPTIONS={"module": module})
    use(watched)
    assert module.calls == 1
    assert is_skipped_by_name(watched, caplog)


def test_a_factory_of_connections_is_not_called(filled, watch, caplog):
    dsn = sa.make_url(filled.url).set(drivername="postgresql").render_as_string(hide_password=False)
    only = psycopg2.connect(dsn)
    calls = []

    def factory(dsn, **options):
        calls.append(dsn)
        return only

    options = {"connect_args": {"connection_factory": factory}, "poolclass": StaticPool}
    watched = watch(filled.url, SQLALCHEMY_ENGINE_OPTIONS=options)
    use(watched)
    assert filled.scalar("SELECT count(*) FROM kept") == 5
    assert len(calls) == 1
    assert is_skipped_by_name(watched, caplog)
    only.close()


class Only:
    """A pool of one connection."""

    def __init__(self, only):
        self.only = only

    def connect(self, *arguments, **named):
        return self.only

    __call__ = connect


class Around(wrapt.ObjectProxy):
    """Hands out what it has, in the place of what it is put around."""

    def __call__(self, *arguments, **named):
        return self._self_only


def own_wrapper(only):
    """Return what the application put around the driver's function by wrapt."""

    @wrapt.decorator
    def around(wrapped, instance, arguments, named):
        return only

    return around(psycopg2.connect)


def own_proxy(only):
    proxy = Around(psycopg2.connect)
    proxy._self_only = only
    return proxy


@pytest.mark.parametrize(
    "how",
    [
        *("driver", "like it", "kept", "watched", "wrapped", "proxy", "partial", "method"),
        *("object", "dialect", "creator"),
    ],
)
def test_what_was_put_in_the_place_of_connect_is_not_called(
    filled, watch, caplog, monkeypatch, how
):
    """And a connection that is the application's is left alone, wherever it comes from."""
    dsn = sa.make_url(filled.url).set(drivername="postgresql").render_as_string(hide_password=False)
    only = psycopg2.connect(dsn)
    watched = watch(filled.url, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": StaticPool})
    with watched.app.app_context():
        engine = watched.db.engine
    if how == "driver":
        monkeypatch.setattr(psycopg2, "connect", lambda *_, **__: only)
    elif how == "like it":
        monkeypatch.setattr(psycopg2, "connect", wraps(psycopg2.connect)(lambda *_, **__: only))
    elif how == "kept":
        monkeypatch.setattr(psycopg2, "connect", cache(psycopg2.connect))
    elif how == "watched":
        other = wraps(psycopg2.connect)(lambda *_, **__: only)
        monkeypatch.setattr(psycopg2, "connect", wrapt.FunctionWrapper(other, call))
    elif how == "wrapped":
        monkeypatch.setattr(psycopg2, "connect", own_wrapper(only))
    elif how == "proxy":
        monkeypatch.setattr(psycopg2, "connect", own_proxy(only))
    elif how == "partial":
        monkeypatch.setattr(psycopg2, "connect", partial(lambda one, *_, **__: one, only))
    elif how == "method":
        monkeypatch.setattr(psycopg2, "connect", Only(only).connect)
    elif how == "object":
        monkeypatch.setattr(psycopg2, "connect", update_wrapper(Only(only), psycopg2.connect))
    elif how == "dialect":
        monkeypatch.setattr(engine.dialect, "connect", lambda *_, **__: only)
    else:
        original = engine.pool._creator
        monkeypatch.setattr(engine.pool, "_creator", wraps(original)(lambda *_: only))
    use(watched)
    monkeypatch.undo()
    assert filled.scalar("SELECT count(*) FROM kept") == 5
    assert is_skipped_by_name(watched, caplog)
    only.close()


@pytest.mark.parametrize("how", ["its own", "watched", "wrapped", "like it"])
@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql+psycopg2://", psycopg2),
        ("postgresql+psycopg://", psycopg),
        ("postgresql+psycopg_async://", psycopg.AsyncConnection),
        ("postgresql+asyncpg://", asyncpg),
    ],
)
def test_whose_connect_is_known(monkeypatch, url, place, how):
    make = create_async_engine if "async" in url else sa.create_engine
    dialect = make(url).dialect
    original = place.connect
    if how == "watched":
        monkeypatch.setattr(place, "connect", vars(place)["connect"])
        dbapi = pytest.importorskip("opentelemetry.instrumentation.dbapi")
        dbapi.wrap_connect("tests", place, "connect", "postgresql")
    elif how == "wrapped":
        monkeypatch.setattr(place, "connect", wrapt.FunctionWrapper(original, call))
    elif how == "like it":
        monkeypatch.setattr(place, "connect", wraps(original)(lambda *_, **__: None))
    assert connection._is_plain(dialect) is (how in {"its own", "watched"})


def test_an_application_that_connects_elsewhere_each_time_is_skipped(filled, watch):
    """What PlanWatch's thread would connect with is not what the application connected with."""
    filled.execute("CREATE SCHEMA tenant", "CREATE TABLE tenant.item (id int, v int)")
    watched = watch(filled.url, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool})
    chosen = []

    def choose(dialect, record, positional, named):
        named["options"] = "" if chosen else "-c search_path=tenant"
        chosen.append(named["options"])

    with watched.app.app_context():
        sa.event.listen(watched.db.engine, "do_connect", choose)
        watched.db.session.execute(sa.text("SELECT v FROM item WHERE v = 1")).all()
        watched.db.session.commit()
    assert watched.planwatch.flush(30)
    assert watched.planwatch.stats()["skipped"] == {"session-state-unknown": 1}


@pytest.mark.parametrize(
    "pool", [QueuePool, NullPool, StaticPool, SingletonThreadPool, AssertionPool]
)
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_each_pool_of_sqlalchemy_is_left_as_it_is(filled, watch, pool, driver):
    watched = watch(filled.url_for(driver), SQLALCHEMY_ENGINE_OPTIONS={"poolclass": pool})
    opened = []
    with watched.app.app_context():
        sa.event.listen(watched.db.engine, "checkout", lambda *_: opened.append("checkout"))
    use(watched)
    assert filled.scalar("SELECT count(*) FROM kept") == 5
    assert watched.planwatch.stats()["skipped"] == {}
    assert watched.planwatch.stats()["inspected"] == 10
    assert len(opened) == 10, "PlanWatch checks nothing out of the application's pool"


def test_with_a_url_of_its_own_the_creator_does_not_matter(filled, watch):
    dsn = sa.make_url(filled.url).set(drivername="postgresql")
    made = []

    def creator():
        made.append(psycopg2.connect(dsn.render_as_string(hide_password=False)))
        return made[-1]

    options = {"creator": creator, "poolclass": StaticPool}
    watched = watch(
        filled.url, SQLALCHEMY_ENGINE_OPTIONS=options, PLANWATCH_DATABASE_URL=filled.url
    )
    use(watched)
    assert watched.planwatch.stats()["inspected"] == 10
    assert len(made) == 1


def test_listeners_that_write_do_not_run_for_planwatch(filled, watch):
    """A `connect` listener does: it sets what plans depend on."""
    watched = watch(filled.url)
    filled.execute("CREATE TABLE boot (what text)", "CREATE SCHEMA tenant")
    filled.execute("CREATE TABLE tenant.place (id int)", "CREATE TABLE public.place (id int)")
    with watched.app.app_context():
        engine = watched.db.engine
    counts = dict.fromkeys(("checkout", "checkin", "reset", "close", "connect"), 0)

    def count(name):
        def listener(*_):
            counts[name] += 1

        return listener

    for name in counts:
        sa.event.listen(engine, name, count(name))

    @sa.event.listens_for(engine, "connect")
    def measure(connection, record):
        record.info["opened"] = time.time()
        record.info["number"] = record.info.get("number", 0) + 1
        counts["info"] = counts.get("info", 0) + 1

    @sa.event.listens_for(engine, "first_connect")
    def boot(connection, record):
        connection.cursor().execute("INSERT INTO boot VALUES ('first')")
        connection.commit()

    @sa.event.listens_for(engine, "connect")
    def set_path(connection, record):
        connection.cursor().execute("SET search_path TO tenant")
        connection.commit()

    planned = []

    def inspected(sender, inspection):
        planned.extend(scan.qualified_relation for scan in inspection.plan.scans)

    with statement_inspected.connected_to(inspected, watched.app):
        with watched.app.app_context():
            watched.db.session.execute(sa.text("SELECT id FROM place")).all()
            watched.db.session.commit()
        assert watched.planwatch.flush(30)
    assert planned == ["tenant.place"]
    assert filled.scalar("SELECT count(*) FROM boot") == 1
    assert counts.pop("info") == 1
    assert counts == {"checkout": 1, "checkin": 1, "reset": 1, "close": 0, "connect": 1}


def test_which_functions_return_nothing():
    def changes(dialect, record, positional, named):
        named["password"] = "token"

    def returns(dialect, record, positional, named):
        return psycopg2.connect(*positional, **named)

    def sometimes(dialect, record, positional, named):
        if named:
            return None
        return record

    def yields(dialect, record, positional, named):
        yield

    def chooses(dialect, record, positional, named):
        return positional or None

    def chooses_twice(dialect, record, positional, named):
        return (positional and named) or None

    class Listener:
        def change(self, dialect, record, positional, named):
            named.pop("password")

    @wrapt.decorator
    def from_pool(wrapped, instance, arguments, named):
        return wrapped(*arguments, **named) or psycopg2.connect()

    assert not returns_nothing(from_pool(changes))
    assert returns_nothing(changes)
    assert returns_nothing(Listener().change)
    assert not returns_nothing(returns)
    assert not returns_nothing(sometimes)
    assert not returns_nothing(yields)
    assert not returns_nothing(chooses)
    assert not returns_nothing(chooses_twice)
    assert not returns_nothing(print)


def test_a_listener_that_waits_is_not_waited_for(filled, watch, monkeypatch):
    """PlanWatch's thread has other work, and the application may need what the listener took."""
    monkeypatch.setattr(connection, "LISTENERS_SECONDS", 0.2)
    watched = watch(filled.url, SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0})

    def only_one(driver_connection, record):
        with driver_connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(5)")

    with watched.app.app_context():
        sa.event.listen(watched.db.engine, "connect", only_one)
        watched.db.session.execute(sa.text("SELECT v FROM item WHERE v = 3")).all()
        watched.db.session.commit()
    assert watched.planwatch.flush(30)
    stats = watched.planwatch.stats()
    assert stats["skipped"] == {"pool-listener-failed": 1}
    assert stats["errors"] == 0

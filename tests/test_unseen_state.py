"""State that no statement tells: PlanWatch plans the table that the application read, or none."""

from __future__ import annotations

import contextvars
import functools
import gc
import itertools
import json
import logging
import threading
import time
from contextlib import closing, suppress

import flask
import psycopg
import psycopg2.extensions
import psycopg2.extras
import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.pool import NullPool
from werkzeug.local import LocalProxy

from flask_planwatch.signals import statement_inspected
from flask_planwatch.statement.fingerprint import normalise

from . import servers
from .databases import make_database

pytestmark = [pytest.mark.slow, pytest.mark.versions]

TENANT = "tenant_1"

READ = sa.text("SELECT count(*) FROM orders WHERE customer = 7")
#: One whose result tells the table that its columns come from.
READ_ROWS = sa.text("SELECT o.id FROM orders o WHERE customer = 7")
REALLY = sa.text(
    "SELECT relnamespace::regnamespace::text || '.' || relname FROM pg_class "
    "WHERE oid = (SELECT tableoid FROM orders LIMIT 1)"
).execution_options(planwatch=False)

logger = logging.getLogger(__name__)

MOVE = f"SET search_path TO {TENANT}"

#: The tables that one name means: public has the index.
SCHEMAS = ("public", "tenant_1", "tenant_2", "tenant_3")

UNKNOWN = "session-state-unknown"
HIDDEN = "not-visible"


@pytest.fixture(scope="module", params=[(servers.FIRST, "psycopg"), (servers.HYPOPG, "psycopg2")])
def kind(request):
    """A server and a driver: both of each, but not all combinations."""
    return request.param


@pytest.fixture(scope="module")
def tenants(kind):
    """A database in which several schemas have a table of the same name."""
    for database in make_database(servers.find_server(kind[0]), None):
        for schema in SCHEMAS:
            database.execute(
                f"CREATE SCHEMA IF NOT EXISTS {schema}",
                f"CREATE TABLE {schema}.orders AS SELECT n AS id, n AS customer "
                "FROM generate_series(1, 3000) n",
            )
        database.execute(
            "CREATE INDEX orders_customer ON public.orders (customer)",
            """CREATE FUNCTION public.enter_tenant(name text) RETURNS text LANGUAGE plpgsql
            AS $$ BEGIN RETURN set_config('search_path', name, false); END $$""",
            """CREATE FUNCTION public.enter(name text) RETURNS text LANGUAGE sql
            AS $$ SELECT public.enter_tenant(name) $$""",
            """CREATE FUNCTION public.greet(name text) RETURNS text LANGUAGE sql
            AS $$ SELECT 'hello ' || name $$""",
            """CREATE PROCEDURE public.change(name text) LANGUAGE plpgsql
            AS $$ BEGIN EXECUTE 'SET search_path TO ' || name; END $$""",
            """CREATE FUNCTION public."enterTenant"(name text) RETURNS text LANGUAGE sql
            AS $$ SELECT/**/public."enter_tenant"/* of all */(name) $$""",
            """CREATE FUNCTION public.pg_enter(name text) RETURNS text LANGUAGE sql
            AS $$ SELECT public.enter_tenant(name) $$""",
            """CREATE FUNCTION public.version(name text) RETURNS text LANGUAGE sql
            AS $$ SELECT public.enter_tenant(name) $$""",
            """CREATE PROCEDURE public."Change"(name text) LANGUAGE plpgsql
            AS $$ BEGIN PERFORM public.enter_tenant(name); END $$""",
            "CREATE SEQUENCE logins",
            """CREATE FUNCTION public.login(name text) RETURNS text VOLATILE LANGUAGE plpgsql
            AS $$ BEGIN PERFORM nextval('logins'); RETURN name; END $$""",
            "ANALYZE",
        )
        yield database


@pytest.fixture
def reports_the_path(tenants):
    """Whether the server tells each client its search path."""
    return int(str(tenants.scalar("SHOW server_version_num"))) >= 180000


@pytest.fixture
def watched(kind, tenants, watch):
    """An app with one connection, so that each statement meets what others left on it."""
    options = {"pool_size": 1, "max_overflow": 0}
    return watch(tenants.url_for(kind[1]), SQLALCHEMY_ENGINE_OPTIONS=options)


@pytest.fixture
def engine(watched):
    with watched.app.app_context():
        return watched.db.engine


def look(watched, engine, prepare=lambda connection: None, read=READ):
    """Read the table on a connection that was prepared; return what was planned, and what read."""
    seen = []

    def receive(sender, inspection):
        if inspection.statement.text != normalise(read.text):
            return
        if inspection.skip is not None:
            seen.append(str(inspection.skip.reason))
        else:
            seen.append({scan.qualified_relation for scan in inspection.plan.scans})

    with watched.app.app_context():
        assert watched.planwatch.flush(120)
        with statement_inspected.connected_to(receive, watched.app):
            with engine.connect() as connection:
                prepare(connection)
                connection.execute(read).all()
                really = connection.execute(REALLY).scalar_one()
            assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["errors"] == 0
    (planned,) = seen
    return planned, {really}


def run(connection, sql):
    """Run SQL where no hook sees it: the way of listeners."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(sql)


# Listeners of the pool and the engine


def moves(connection, *_):
    connection.cursor().execute("SET search_path TO tenant_1")


def moves_by_a_function(connection, *_):
    run(connection, "SET search_path TO tenant_1")


def moves_by_a_constant(connection, *_):
    with connection.cursor() as cursor:
        cursor.execute(MOVE)


def moves_by_set_config(connection, *_):
    cursor = connection.cursor()
    cursor.execute("SELECT set_config('search_path', %s, false)", (TENANT,))
    cursor.close()


class Tenancy:
    """Chooses the tenant by a method, whose SQL is anywhere."""

    sql = MOVE

    def apply(self, connection, *_):
        connection.cursor().execute(self.sql)

    def __call__(self, connection, *_):
        self.apply(connection)


def moves_by_a_cell():
    tenant = TENANT

    def listener(connection, *_):
        connection.cursor().execute(f"SET search_path TO {tenant}, public")

    return listener


def wrapped(function):
    @functools.wraps(function)
    def listener(*arguments, **named):
        return function(*arguments, **named)

    return listener


#: Listeners that choose a tenant; of the second half it cannot be told that they do nothing else.
READABLE = [moves, moves_by_a_function, moves_by_a_constant, moves_by_a_cell(), wrapped(moves)]
READABLE += [moves_by_set_config]
UNREADABLE = [Tenancy().apply, Tenancy(), functools.partial(Tenancy.apply, Tenancy())]


def of_a_connection(listener):
    """Return a listener of the engine that does with its connection what one of the pool does."""

    def engine_listener(connection):
        listener(connection.connection.dbapi_connection)

    return engine_listener


@pytest.mark.parametrize("listener", READABLE, ids=lambda one: one.__qualname__)
@pytest.mark.parametrize("name", ["checkout", "begin", "engine_connect"])
def test_a_listener_that_moves(watched, engine, reports_the_path, name, listener):
    event.listen(engine, name, listener if name == "checkout" else of_a_connection(listener))
    planned, really = look(watched, engine)
    assert really == {"tenant_1.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)


@pytest.mark.parametrize("listener", UNREADABLE, ids=["method", "callable", "partial"])
@pytest.mark.parametrize("name", ["checkout", "begin", "engine_connect"])
def test_a_listener_that_may_do_anything(watched, engine, name, listener):
    event.listen(engine, name, listener if name == "checkout" else of_a_connection(listener))
    assert look(watched, engine) == (UNKNOWN, {"tenant_1.orders"})


def test_a_listener_of_all_engines(watched, engine, reports_the_path):
    event.listen(sa.pool.Pool, "checkout", moves)
    try:
        planned, really = look(watched, engine)
        assert planned == (really if reports_the_path else UNKNOWN)
    finally:
        event.remove(sa.pool.Pool, "checkout", moves)


def test_a_listener_to_a_cursor(watched, engine, reports_the_path):
    def listener(conn, cursor, statement, parameters, context, executemany):
        cursor.execute("SET search_path TO tenant_1")

    event.listen(engine, "before_cursor_execute", listener)
    planned, really = look(watched, engine)
    assert really == {"tenant_1.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)


def keeps(engine, name, value):
    """Keep something for each new connection."""
    event.listen(
        engine, "connect", lambda connection, record: record.info.update({name: value(connection)})
    )


def uses_a_kept_cursor(connection, record, proxy):
    record.info["kept"].execute(MOVE)


def runs_kept_sql(connection, record, proxy):
    run(connection, record.info.get("kept"))


def uses_a_kept_connection(conn):
    conn.info["kept"].cursor().execute(MOVE)


@pytest.mark.parametrize(
    ("name", "listener", "value"),
    [
        ("checkout", uses_a_kept_cursor, lambda connection: connection.cursor()),
        ("checkout", runs_kept_sql, lambda _: MOVE),
        ("begin", uses_a_kept_connection, lambda connection: connection),
    ],
)
def test_a_listener_that_uses_what_was_kept(watched, engine, name, listener, value):
    keeps(engine, "kept", value)
    event.listen(engine, name, listener)
    assert look(watched, engine) == (UNKNOWN, {"tenant_1.orders"})


class Cursor(psycopg.Cursor):
    def execute(self, query, *arguments, **named):
        super().execute(MOVE)
        return super().execute(query, *arguments, **named)


class Cursor2(psycopg2.extensions.cursor):
    def execute(self, query, *arguments):
        super().execute(MOVE)
        return super().execute(query, *arguments)


@pytest.mark.parametrize("name", ["connect", "checkout"])
def test_a_listener_that_chooses_the_class_of_cursors(kind, watched, engine, name):
    of_the_driver = {"psycopg": psycopg.ClientCursor, "psycopg2": psycopg2.extras.DictCursor}
    of_the_application = {"psycopg": Cursor, "psycopg2": Cursor2}
    chosen = [of_the_driver[kind[1]]]

    def choose(connection, *_):
        connection.cursor_factory = chosen[0]

    def choose_here(connection, *_):
        if hasattr(connection, "pgconn"):
            connection.cursor_factory = Cursor
        else:
            connection.cursor_factory = Cursor2

    if name == "connect":
        event.listen(engine, name, choose)
        assert look(watched, engine) == ({"public.orders"}, {"public.orders"})
        engine.dispose()
        chosen[0] = of_the_application[kind[1]]
        expected = "shared-connection"
    else:
        event.listen(engine, name, choose_here)
        expected = UNKNOWN
    assert look(watched, engine) == (expected, {"tenant_1.orders"})


def test_a_listener_that_runs_statements_instead(watched, engine):
    def listener(cursor, statement, parameters, context):
        cursor.execute("SET ROLE pg_read_all_data")
        cursor.execute(statement, parameters)
        return True

    event.listen(engine, "do_execute", listener)
    assert look(watched, engine)[0] == UNKNOWN


def test_a_listener_to_a_session(watched, engine, reports_the_path):
    maker = orm.sessionmaker(engine)

    @event.listens_for(maker, "after_begin")
    def listener(session, transaction, connection):
        connection.connection.cursor().execute("SET search_path TO tenant_1")

    def by_session(connection):
        with maker(bind=connection, join_transaction_mode="control_fully") as session:
            session.execute(sa.select(1))
            session.commit()
        connection.exec_driver_sql("SELECT 1")

    try:
        planned, really = look(watched, engine, by_session)
    finally:
        event.remove(maker, "after_begin", listener)
    assert really == {"tenant_1.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)


@pytest.mark.parametrize("name", ["do_orm_execute", "after_transaction_create", "before_flush"])
def test_a_listener_to_another_event_of_a_session(watched, engine, name):
    """Only one that takes a cursor of the driver's is in the way."""
    maker = orm.sessionmaker(engine, join_transaction_mode="control_fully")

    def harmless(session, *_):
        getattr(session, "session", session).info["seen"] = READ

    def of_the_driver(session, *_):
        session = getattr(session, "session", session)
        with closing(session.connection().connection.cursor()) as cursor:
            cursor.execute("SET search_path TO tenant_1")

    def by_session(connection):
        with maker(bind=connection) as session:
            session.add(Order(id=10_000))
            session.flush()
            session.execute(sa.select(1))
            session.commit()
        connection.exec_driver_sql("SELECT 1")

    class Order(orm.declarative_base()):
        __tablename__ = "orders"
        id = sa.Column(sa.Integer, primary_key=True)
        customer = sa.Column(sa.Integer)

    event.listen(maker, name, harmless)
    assert look(watched, engine, by_session)[0] == {"public.orders"}
    event.listen(maker, name, of_the_driver)
    try:
        assert look(watched, engine, by_session) == (UNKNOWN, {"tenant_1.orders"})
    finally:
        event.remove(maker, name, of_the_driver)
        event.remove(maker, name, harmless)


class Routing(sa.pool.QueuePool):
    """Chooses the tenant whenever it hands a connection out."""

    def _do_get(self):
        record = super()._do_get()
        run(record.dbapi_connection, "SET search_path TO tenant_1")
        return record


def test_a_pool_of_the_applications_own(kind, tenants, watch):
    watched = watch(tenants.url_for(kind[1]), SQLALCHEMY_ENGINE_OPTIONS={"poolclass": Routing})
    with watched.app.app_context():
        assert look(watched, watched.db.engine) == (UNKNOWN, {"tenant_1.orders"})


class Tenant(sa.Connection):
    """Moves whenever it is made."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        run(self.connection, MOVE)


@pytest.mark.parametrize("name", ["connect", "raw_connection", "_connection_cls"])
def test_an_engine_that_hands_out_connections_otherwise(watched, engine, name):
    original = getattr(engine, name)

    def moved(*arguments, **named):
        connection = original(*arguments, **named)
        run(connection if name == "raw_connection" else connection.connection, MOVE)
        return connection

    setattr(engine, name, Tenant if name == "_connection_cls" else moved)
    assert look(watched, engine) == (UNKNOWN, {"tenant_1.orders"})


def test_a_dialect_that_begins_otherwise(watched, engine):
    engine.dialect.do_begin = lambda connection: run(connection, MOVE)
    assert look(watched, engine) == (UNKNOWN, {"tenant_1.orders"})


def test_what_the_application_keeps_of_a_connection_is_its_own(watched, engine):
    """It may clear that, or write it to a log as JSON."""

    def by_set(connection):
        connection.exec_driver_sql("SET search_path TO tenant_1")
        connection.commit()
        connection.info.clear()

    written = []
    event.listen(engine, "checkin", lambda _, record: written.append(json.dumps(record.info)))
    with engine.connect() as connection:
        connection.execute(sa.select(1))
    assert written == ["{}"]
    assert look(watched, engine, by_set) == ({"tenant_1.orders"}, {"tenant_1.orders"})


def test_a_listener_that_rewrites_a_statement(kind, tenants, watch):
    """Each text is a statement of its own, but for one that only gets a comment."""
    watched = watch(tenants.url_for(kind[1]), PLANWATCH_SAMPLE_INTERVAL=60)
    tables, planned = iter(["tenant_1.orders", "tenant_2.orders", "orders", "orders"]), []

    def rewrite(conn, cursor, statement, parameters, context, executemany):
        if "FROM orders" not in statement:
            return statement, parameters
        number = next(numbers)
        return statement.replace("orders", next(tables)) + f" /* {number} */", parameters

    def receive(sender, inspection):
        if inspection.plan is not None:
            planned.extend(scan.qualified_relation for scan in inspection.plan.scans)

    numbers = itertools.count()
    with watched.app.app_context():
        engine = watched.db.engine
        event.listen(engine, "before_cursor_execute", rewrite, retval=True)
        with statement_inspected.connected_to(receive, watched.app):
            for _ in range(4):
                with engine.connect() as connection:
                    connection.execute(READ).all()
            assert watched.planwatch.flush(120)
    assert planned == ["tenant_1.orders", "tenant_2.orders", "public.orders"]


def test_a_listener_that_puts_a_change_before_a_statement(watched, engine):
    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def rewrite(conn, cursor, statement, parameters, context, executemany):
        if statement == "SELECT 1 AS one":
            statement = "SET search_path TO tenant_1; SELECT 1 AS one"
        return statement, parameters

    def by_text(connection):
        connection.execute(sa.text("SELECT 1 AS one"))

    if engine.driver == "psycopg2":
        assert look(watched, engine, by_text) == (UNKNOWN, {"tenant_1.orders"})


@pytest.mark.parametrize(
    "sql", ["SET search_path TO tenant_1", "RESET ALL", "DISCARD ALL", "RESET search_path"]
)
@pytest.mark.parametrize("name", ["reset", "checkin"])
def test_a_listener_to_the_return(watched, engine, reports_the_path, name, sql):
    """What was set before may hold no longer, until it is set anew."""

    def listener(connection, *_):
        connection.rollback()
        before, connection.autocommit = connection.autocommit, True
        cursor = connection.cursor()
        cursor.execute(sql)
        cursor.close()
        connection.autocommit = before

    def by_set(connection):
        connection.exec_driver_sql("SET search_path TO tenant_2")
        connection.commit()

    event.listen(engine, name, listener)
    sets = sql.startswith("SET")
    planned, really = look(watched, engine, by_set)
    assert really == {"tenant_2.orders"}
    assert planned == (UNKNOWN if sets and not reports_the_path else really)
    planned, really = look(watched, engine)
    assert really == {"tenant_1.orders" if sets else "public.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)


@pytest.mark.parametrize("name", ["reset", "checkin"])
def test_a_listener_that_only_resets(watched, engine, reports_the_path, name):
    def listener(connection, *_):
        connection.cursor().execute("RESET ALL")
        connection.commit()

    def by_set(connection):
        connection.exec_driver_sql("SET search_path TO tenant_2")
        connection.exec_driver_sql("SET enable_sort = off")
        connection.commit()

    event.listen(engine, name, listener)
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})
    assert look(watched, engine, by_set) == ({"tenant_2.orders"}, {"tenant_2.orders"})
    assert look(watched, engine) == (UNKNOWN, {"public.orders"})
    assert look(watched, engine, by_set) == ({"tenant_2.orders"}, {"tenant_2.orders"})


def test_listeners_that_do_no_harm(watched, engine):
    """What counts, measures, or sets what changes no plan is in no way."""
    seen = []

    def count(connection, record, proxy):
        record.info["checkouts"] = record.info.get("checkouts", 0) + 1
        seen.append(1)

    def limit(connection, *_):
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 60000")
            cursor.execute("SELECT 1")

    def measure(conn, cursor, statement, parameters, context, executemany):
        context.began = conn.info.setdefault("began", [])
        conn.info["began"].append(statement)

    def choose(connection):
        connection.execute(sa.text("SET LOCAL search_path TO tenant_2"))

    def ping(conn):
        conn.scalar(sa.select(1))

    event.listen(engine, "checkout", count)
    event.listen(engine, "checkout", limit)
    event.listen(engine, "checkin", lambda *_: seen.append(2))
    event.listen(engine, "before_cursor_execute", measure)
    event.listen(engine, "begin", choose)
    event.listen(engine, "engine_connect", ping)
    assert look(watched, engine) == ({"tenant_2.orders"}, {"tenant_2.orders"})
    assert seen


def test_a_listener_to_new_connections(kind, tenants, watched, engine, watch):
    """It runs for PlanWatch, too, but for a URL of PlanWatch's own."""
    event.listen(engine, "connect", moves)
    event.listen(engine, "connect", lambda connection, _: connection.commit())
    assert look(watched, engine) == ({"tenant_1.orders"}, {"tenant_1.orders"})
    other = watch(
        tenants.url_for(kind[1]),
        PLANWATCH_DATABASE_URL=tenants.url_for(kind[1], username="postgres"),
    )
    with other.app.app_context():
        event.listen(other.db.engine, "connect", Tenancy())
        event.listen(other.db.engine, "connect", lambda connection, _: connection.commit())
        assert look(other, other.db.engine) == (UNKNOWN, {"tenant_1.orders"})


of_request = contextvars.ContextVar("of_request", default="public")
of_thread = threading.local()
proxied = LocalProxy(lambda: of_request.get())


def tenant_of_request():
    return of_request.get()


class Directory:
    """Knows the tenant of the request."""

    def __init__(self):
        self.variable = of_request

    @property
    def current(self):
        return self.variable.get()


directory = Directory()


@pytest.mark.parametrize(
    "tenant",
    [
        lambda: of_request.get(),
        lambda: getattr(of_thread, "tenant", "public"),
        lambda: str(proxied),
        lambda: tenant_of_request(),
        lambda: directory.current,
        lambda: flask.g.tenant if flask.has_app_context() else "public",
    ],
    ids=["variable", "thread", "proxy", "function", "object", "flask"],
)
@pytest.mark.parametrize("name", ["connect", "do_connect"])
def test_a_listener_to_new_connections_of_a_tenant(kind, tenants, watch, name, tenant):
    """On PlanWatch's thread, it would be another tenant's, or none's."""

    def connect(connection, _):
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SET search_path TO {tenant()}")
        connection.commit()

    def do_connect(dialect, record, positional, named):
        named["options"] = f"-c search_path={tenant()}"

    watched = watch(tenants.url_for(kind[1]), SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool})
    with watched.app.app_context():
        engine = watched.db.engine
    event.listen(engine, name, connect if name == "connect" else do_connect)

    def begin(sender, **_):
        flask.g.tenant = of_thread.tenant = "tenant_1"

    with flask.appcontext_pushed.connected_to(begin, watched.app):
        token = of_request.set("tenant_1")
        try:
            assert look(watched, engine) == (UNKNOWN, {"tenant_1.orders"})
        finally:
            of_request.reset(token)


def test_a_listener_to_new_connections_that_logs(watched, engine):
    """What a logger asks of its thread is no tenant."""

    def listener(connection, _):
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SET search_path TO {TENANT}")
        connection.commit()
        logger.info("%s at %s in %s", TENANT, time.time(), threading.current_thread().name)

    event.listen(engine, "connect", listener)
    assert look(watched, engine) == ({"tenant_1.orders"}, {"tenant_1.orders"})


def test_what_the_application_connects_with(kind, tenants, watch):
    """PlanWatch's own URL does not tell it, even for the same role."""
    own = tenants.url_for(kind[1])
    options = {"connect_args": {"options": "-c search_path=tenant_1 -c enable_sort=off"}}
    watched = watch(own, PLANWATCH_DATABASE_URL=own, SQLALCHEMY_ENGINE_OPTIONS=options)
    with watched.app.app_context():
        engine = watched.db.engine
    assert look(watched, engine) == ({"tenant_1.orders"}, {"tenant_1.orders"})


# What only the result of a statement tells


def by_a_cursor(connection):
    run(connection.connection, MOVE)


def by_a_connection(connection):
    """Listen to this connection alone."""

    @event.listens_for(connection, "before_cursor_execute")
    def listener(conn, cursor, statement, parameters, context, executemany):
        cursor.execute(MOVE)


def by_a_session(connection):
    """Listen to this session alone."""
    session = orm.Session(connection, join_transaction_mode="control_fully")
    event.listen(
        session, "after_begin", lambda session, _, connection: run(connection.connection, MOVE)
    )
    session.execute(sa.select(1))
    session.commit()


def by_a_mapper(connection):
    """Listen to a mapper."""

    class Order(orm.declarative_base()):
        __tablename__ = "orders"
        id = sa.Column(sa.Integer, primary_key=True)
        customer = sa.Column(sa.Integer)

    @event.listens_for(Order, "after_insert")
    def listener(mapper, connection, order):
        run(connection.connection, MOVE)

    with orm.Session(connection, join_transaction_mode="control_fully") as session:
        session.add(Order(id=20_000))
        session.commit()


def by_a_table(connection):
    """Listen to a table."""
    table = sa.Table("places", sa.MetaData(), sa.Column("id", sa.Integer))
    event.listen(table, "after_create", lambda _, connection, **__: by_a_cursor(connection))
    table.create(connection, checkfirst=False)
    connection.commit()
    connection.exec_driver_sql("DROP TABLE IF EXISTS public.places")
    connection.commit()


def by_a_kept_cursor(connection):
    """Keep a cursor for a session."""
    connection.info["kept"] = connection.connection.cursor()
    connection.info["kept"].execute(MOVE)


def by_a_larger_statement(connection):
    connection.execute(sa.text("SELECT count(*) FROM (SELECT enter_tenant('tenant_1')) AS one"))


UNSEEN = [by_a_cursor, by_a_connection, by_a_session, by_a_mapper, by_a_table, by_a_kept_cursor]


@pytest.mark.parametrize("prepare", [*UNSEEN, by_a_larger_statement])
def test_the_result_tells_the_table(watched, engine, reports_the_path, prepare):
    planned, really = look(watched, engine, prepare, READ_ROWS)
    assert really == {"tenant_1.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)


def test_a_contradiction_counts_for_what_tells_no_table(watched, engine, reports_the_path):
    """Until it was seen, nothing tells that a statement which only counts meant another table."""
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})
    assert look(watched, engine, by_a_cursor, READ_ROWS)[1] == {"tenant_1.orders"}
    planned, really = look(watched, engine, by_a_cursor)
    assert really == {"tenant_1.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)
    qualified = sa.text("SELECT count(*) FROM tenant_2.orders WHERE customer = 7")
    assert look(watched, engine, by_a_cursor, qualified)[0] == {"tenant_2.orders"}
    watched.planwatch.clear(watched.app)
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})


def test_a_temporary_table_that_no_hook_saw(watched, engine):
    """Of one that is not committed it is not even known what it is called."""

    def by_cursor(connection):
        run(connection.connection, "CREATE TEMP TABLE orders AS SELECT 1 AS id, 7 AS customer")

    assert look(watched, engine, by_cursor, READ_ROWS)[0] == HIDDEN

    def by_committed(connection):
        by_cursor(connection)
        connection.connection.commit()

    assert look(watched, engine, by_committed, READ_ROWS)[0] == HIDDEN
    engine.dispose()
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})


@pytest.fixture
def parts(tenants):
    """A view and a partitioned table in two schemas."""
    for schema in ("public", "tenant_1"):
        tenants.execute(
            f"CREATE VIEW {schema}.some_orders AS SELECT * FROM {schema}.orders WHERE id < 100",
            f"CREATE TABLE {schema}.parts (id int) PARTITION BY RANGE (id)",
            f"CREATE TABLE {schema}.part_of_{schema} PARTITION OF {schema}.parts "
            "FOR VALUES FROM (0) TO (100)",
        )
    yield
    for schema in ("public", "tenant_1"):
        tenants.execute(f"DROP VIEW {schema}.some_orders", f"DROP TABLE {schema}.parts")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT o.id FROM tenant_1.orders o JOIN tenant_2.orders p ON o.id = p.id AND p.id = 7",
        "SELECT id FROM (SELECT * FROM orders WHERE id = 7) AS o",
        "WITH o AS MATERIALIZED (SELECT * FROM Orders) SELECT id FROM o WHERE id = 7",
        "SELECT * FROM public.orders AS orders WHERE false",
        "SELECT id FROM tenant_1 . orders WHERE id = 7",
        'SELECT id FROM U&"tenant\\005f1".orders WHERE id = 7',
        'SELECT id FROM "tenant_1" . some_orders WHERE id = 7',
        "SELECT id, id, id, id, id, id, id, id, id, id FROM orders WHERE id = 7",
        "UPDATE orders SET customer = 8 WHERE id = 7 RETURNING id",
        "SELECT id FROM some_orders WHERE id = 7",
        "SELECT id FROM parts WHERE id = 7",
        "SELECT id FROM parts WHERE id = 70000",
    ],
)
def test_what_agrees_is_planned(watched, engine, parts, sql):
    """Also a view or a partitioned table, which the plan does not name."""
    assert isinstance(look(watched, engine, read=sa.text(sql))[0], set)


@pytest.mark.parametrize("name", ["some_orders", "parts"])
def test_a_view_or_a_partitioned_table_of_another_tenant(
    watched, engine, parts, reports_the_path, name
):
    planned, _ = look(watched, engine, by_a_cursor, sa.text(f"SELECT id FROM {name} WHERE id = 7"))
    assert "tenant_1" in str(planned) if reports_the_path else planned == UNKNOWN


@pytest.mark.parametrize(
    "sql", ["SET ROLE pg_read_all_data", "SET SESSION AUTHORIZATION pg_read_all_data"]
)
def test_the_server_tells_a_role(watched, engine, sql):
    """It tells whether the current one is a superuser, and the one of the session."""

    def by_cursor(connection):
        run(connection.connection, sql)

    def by_statement(connection):
        connection.exec_driver_sql("RESET SESSION AUTHORIZATION")
        connection.exec_driver_sql(sql)

    assert look(watched, engine, by_cursor)[0] == UNKNOWN
    assert look(watched, engine, by_statement)[0] == {"public.orders"}


# What the application does past the hooks


@pytest.fixture(params=["search_path TO tenant_1", "enable_bitmapscan TO off"])
def changed_default(request, kind, tenants, processor_time):
    """Return what changes a default of the database, which is taken back at the end."""
    # Which connections are older than the change is a question of the clock.
    processor_time.count_waiting()
    name = request.param.partition(" ")[0]
    yield lambda: tenants.execute(f"ALTER DATABASE {tenants.name} SET {request.param}")
    tenants.execute(f"ALTER DATABASE {tenants.name} RESET {name}")


def end_own_connection(tenants, engine):
    """End what PlanWatch has open: all but the one connection that the application has."""
    with engine.connect() as connection:
        mine = connection.connection.dbapi_connection.info.backend_pid
    tenants.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        f"AND datname = current_database() AND pid <> {mine}"
    )


def test_a_default_that_changes_while_connections_live(
    watched, engine, tenants, reports_the_path, changed_default, request
):
    """The application's has the old one, and PlanWatch's next one has the new one."""
    moves = "search_path" in request.node.name
    new = {"tenant_1.orders" if moves else "public.orders"}
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})
    changed_default()
    end_own_connection(tenants, engine)
    planned, really = look(watched, engine)
    assert really == {"public.orders"}
    assert planned == (really if reports_the_path and moves else UNKNOWN)
    engine.dispose()
    assert look(watched, engine) == (new, new)


def test_a_default_that_changes_before_a_connection_begins(
    kind, tenants, watch, reports_the_path, changed_default, request
):
    """PlanWatch's has the old one, and the application's next one has the new one."""
    moves = "search_path" in request.node.name
    new = {"tenant_1.orders" if moves else "public.orders"}
    watched = watch(tenants.url_for(kind[1]), SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 2})
    with watched.app.app_context():
        engine = watched.db.engine
    with engine.connect() as first:
        first.execute(sa.text("SELECT id FROM orders WHERE customer = 8")).all()
        with watched.app.app_context():
            assert watched.planwatch.flush(120)
        changed_default()
        planned, really = look(watched, engine)
        assert really == new
        assert planned == (new if reports_the_path and moves else UNKNOWN)
        with engine.connect() as second:
            second.invalidate()
        assert look(watched, engine) == (new, new)


def test_a_default_without_effect_on_plans(watched, engine, tenants):
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})
    tenants.execute(f"ALTER DATABASE {tenants.name} SET statement_timeout TO '1min'")
    end_own_connection(tenants, engine)
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})
    tenants.execute(f"ALTER DATABASE {tenants.name} RESET statement_timeout")


@pytest.fixture(params=["pg_database", "pg_db_role_setting", "pg_roles"])
def blinkered(request, tenants):
    """A role that may not read a part of the catalog."""
    name = f"blinkered_{tenants.name}"
    tenants.execute(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT SELECT ON orders TO {name}",
        f"REVOKE SELECT ON {request.param} FROM PUBLIC",
    )
    yield name
    tenants.execute(
        f"GRANT SELECT ON {request.param} TO PUBLIC",
        f"DROP OWNED BY {name}",
        f"DROP ROLE {name}",
    )


def test_defaults_that_are_hidden(kind, tenants, watch, blinkered):
    """Where several customers share a server, some hide the databases and roles of others."""
    watched = watch(tenants.url_for(kind[1], username=blinkered))
    with watched.app.app_context():
        engine = watched.db.engine
    for _ in range(2):
        assert look(watched, engine) == ({"public.orders"}, {"public.orders"})
        engine.dispose()


def test_defaults_that_are_hidden_where_options_set_the_path(kind, tenants, watch, blinkered):
    options = {"connect_args": {"options": "-c search_path=tenant_1"}}
    url = tenants.url_for(kind[1], username=blinkered)
    tenants.execute(
        f"GRANT USAGE ON SCHEMA tenant_1 TO {blinkered}",
        f"GRANT SELECT ON tenant_1.orders TO {blinkered}",
    )
    watched = watch(url, SQLALCHEMY_ENGINE_OPTIONS=options)
    with watched.app.app_context():
        engine = watched.db.engine
    assert look(watched, engine) == ({"tenant_1.orders"}, {"tenant_1.orders"})
    engine.dispose()


def test_a_session_that_was_dropped(watched, engine, reports_the_path):
    """The pool ended its transaction."""
    session = orm.Session(engine)
    session.execute(sa.text("SET LOCAL search_path TO tenant_1"))
    session.execute(sa.text("SET LOCAL enable_sort = off"))
    del session
    gc.collect()
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})


def test_a_dropped_session_that_set_something_for_good(watched, engine, reports_the_path):
    """It is not told whether the pool ended its transaction by ROLLBACK or by COMMIT."""
    session = orm.Session(engine)
    session.execute(sa.text(MOVE))
    del session
    gc.collect()
    planned, really = look(watched, engine)
    assert planned == (really if reports_the_path else UNKNOWN)
    planned, really = look(watched, engine, lambda connection: connection.exec_driver_sql(MOVE))
    assert (planned, really) == ({"tenant_1.orders"}, {"tenant_1.orders"})


@pytest.mark.parametrize("sql", [MOVE, "SET ROLE pg_read_all_data", "SELECT 1"])
def test_a_raw_connection(watched, engine, sql):
    raw = engine.raw_connection()
    run(raw, sql)
    raw.commit()
    raw.close()
    assert look(watched, engine)[0] == UNKNOWN

    def discard(connection):
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("DISCARD ALL")

    assert look(watched, engine, discard) == ({"public.orders"}, {"public.orders"})


def by_text(sql, **options):
    """Return what runs one text or several, whatever errors they have."""

    def prepare(connection):
        connection.execution_options(**options)
        for one in [sql] if isinstance(sql, str) else sql:
            with suppress(sa.exc.DataError, sa.exc.InternalError):
                connection.exec_driver_sql(one)

    return prepare


def by_name(name):
    return lambda connection: connection.execute(sa.select(getattr(sa.func, name)(TENANT))).all()


@pytest.mark.parametrize("function", ["enter_tenant", "enter"])
def test_a_function_of_the_application_that_moves(watched, engine, reports_the_path, function):
    planned, really = look(watched, engine, by_name(function))
    assert really == {"tenant_1.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)
    # It was rolled back.
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})


def test_a_procedure_of_the_application_that_moves(watched, engine):
    def call(connection):
        connection.exec_driver_sql("CALL change('tenant_1')")

    assert look(watched, engine, call) == (UNKNOWN, {"tenant_1.orders"})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT \"enterTenant\"('tenant_1')",
        "SELECT public.\"enter\" ('tenant_1')",
        "SELECT enter/* the tenant */('tenant_1')",
        "SELECT enter -- the tenant\r('tenant_1')",
        "SELECT /* a */ /* it's */ enter('tenant_1') -- what's read",
        "SELECT $$it's$$, enter('tenant_1')",
        "SELECT E'\\'', enter('tenant_1')",
        "SELECT pg_enter('tenant_1')",
        "SELECT public.version('tenant_1')",
        "(SELECT enter('tenant_1'))",
        "EXPLAIN ANALYZE SELECT enter_tenant('tenant_1')",
        "EXPLAIN (ANALYZE, COSTS off) SELECT enter_tenant('tenant_1')",
        "SELECT e FROM (VALUES (1)) AS v, LATERAL enter_tenant('tenant_1') AS e",
        "WITH e AS MATERIALIZED (SELECT enter_tenant('tenant_1')) SELECT * FROM e",
        "DO $$ BEGIN PERFORM enter('tenant_1'); END $$",
        "DO 'BEGIN PERFORM enter(''tenant_1''); END'",
        "CALL \"Change\"('tenant_1')",
        ["DECLARE one CURSOR FOR SELECT enter_tenant('tenant_1')", "FETCH one"],
    ],
    ids=str,
)
def test_a_function_however_it_is_called(watched, engine, reports_the_path, sql):
    planned, really = look(watched, engine, by_text(sql))
    assert really == {"tenant_1.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT U&\"set\\005fconfig\"('search_path', 'tenant_1', false)",
        "UPDATE pg_settings SET setting = 'tenant_1' WHERE name = 'search_path'",
        "SELECT /* a /* b */ it's */ enter('tenant_1')",
        [
            "PREPARE move(text) AS SELECT set_config('search_path', $1, false)",
            "SET search_path TO tenant_2",
            "EXECUTE move('tenant_1')",
        ],
    ],
    ids=str,
)
def test_what_is_not_read(watched, engine, sql):
    assert look(watched, engine, by_text(sql)) == (UNKNOWN, {"tenant_1.orders"})


@pytest.mark.parametrize("sql", ["-- a tenant\rSET search_path TO tenant_1", ["-- a\r" + MOVE]])
def test_a_comment_ends_with_a_carriage_return(watched, engine, sql):
    assert look(watched, engine, by_text(sql)) == ({"tenant_1.orders"}, {"tenant_1.orders"})


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (["BEGIN", "SET LOCAL search_path TO tenant_1"], "tenant_1"),
        (["START TRANSACTION", "SELECT set_config('search_path', 'tenant_1', true)"], "tenant_1"),
        (["BEGIN", MOVE, "ROLLBACK"], "public"),
        (["BEGIN", MOVE, "COMMIT", "BEGIN", "SET search_path TO tenant_2", "ABORT"], "tenant_1"),
        (["BEGIN", "SET LOCAL search_path TO tenant_1", "COMMIT"], "public"),
        (["BEGIN", MOVE, "SELECT 1 / 0", "COMMIT", "SELECT 1"], "public"),
        (["SELECT 1 / 0", "BEGIN", MOVE, "END"], "tenant_1"),
        (["SET LOCAL search_path TO tenant_1"], "public"),
    ],
    ids=str,
)
def test_a_transaction_that_a_text_begins(watched, engine, reports_the_path, sql, expected):
    planned, really = look(watched, engine, by_text(sql, isolation_level="AUTOCOMMIT"))
    assert really == {f"{expected}.orders"}
    in_doubt = "SELECT 1 / 0" in sql[1:] and not reports_the_path
    assert planned == (UNKNOWN if in_doubt else really)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_that_the_driver_does_not_end(watched, engine, kind, end):
    """In AUTOCOMMIT, commit() and rollback() do nothing with psycopg2."""

    def begin(connection):
        by_text(["BEGIN", MOVE], isolation_level="AUTOCOMMIT")(connection)
        getattr(connection, end)()

    planned, really = look(watched, engine, begin)
    undone = end == "rollback" and kind[1] == "psycopg"
    assert planned == really == {"public.orders" if undone else "tenant_1.orders"}
    if kind[1] == "psycopg2":
        assert look(watched, engine)[0] == UNKNOWN


def test_a_transaction_that_a_text_ends(watched, engine):
    """What follows is in the next one only with a driver that begins one."""
    sql = [MOVE, "COMMIT", "SET search_path TO tenant_2"]

    def end(connection):
        by_text(sql)(connection)
        connection.rollback()

    planned, really = look(watched, engine, end)
    assert planned == really


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (["SAVEPOINT s", MOVE, "RELEASE s"], "tenant_1"),
        (["SAVEPOINT s", MOVE, "SAVEPOINT s", "RELEASE SAVEPOINT s", "ROLLBACK TO s"], "public"),
    ],
    ids=str,
)
def test_savepoints_that_a_text_releases(watched, engine, sql, expected):
    assert look(watched, engine, by_text(sql)) == ({f"{expected}.orders"},) * 2


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (["DROP TABLE tenant_1.orders"], HIDDEN),
        (["CREATE TABLE x (a int)", "DROP TABLE x CASCADE"], UNKNOWN),
        (["CREATE TABLE x (a int)", "DROP TABLE IF EXISTS x, tenant_1.orders"], HIDDEN),
        (["ALTER TABLE tenant_1.orders RENAME TO others"], HIDDEN),
        (["CREATE VIEW tenant_1.x AS SELECT 1", "DROP VIEW tenant_1.x"], None),
        (["CREATE SCHEMA new"], UNKNOWN),
        (["DROP SCHEMA tenant_1 CASCADE"], UNKNOWN),
        (["ALTER SCHEMA tenant_1 RENAME TO tenant_9"], UNKNOWN),
        (["DROP INDEX public.orders_customer"], UNKNOWN),
        (["DO $$ BEGIN DROP TABLE tenant_1.orders; END $$"], UNKNOWN),
        (["SELECT * INTO LOCAL TEMPORARY orders FROM tenant_2.orders"], HIDDEN),
        (["SELECT * INTO/**/TEMP TABLE orders FROM tenant_2.orders"], HIDDEN),
        (["DROP TABLE tenant_1.orders", "SELECT * INTO orders FROM tenant_2.orders"], HIDDEN),
    ],
    ids=str,
)
def test_relations_of_the_open_transaction(watched, engine, sql, expected):
    path = "SET search_path TO tenant_1, public"
    planned, really = look(watched, engine, by_text([path, *sql]))
    assert planned == (really if expected is None else expected)
    # It was rolled back.
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})


def test_a_function_of_the_application_that_sets_nothing(watched, engine):
    assert look(watched, engine, by_name("greet")) == ({"public.orders"}, {"public.orders"})


def test_a_commit_of_a_transaction_with_an_error(watched, engine, reports_the_path):
    with engine.connect() as connection:
        connection.exec_driver_sql(MOVE)
        with suppress(sa.exc.DBAPIError):
            connection.exec_driver_sql("SELECT 1 / 0")
        connection.commit()
    planned, really = look(watched, engine)
    assert really == {"public.orders"}
    assert planned == (really if reports_the_path else UNKNOWN)


def test_two_phases(watched, engine, tenants):
    """What a transaction set for good stays when it is prepared, even if it is rolled back then."""
    if tenants.scalar("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server prepares no transactions")
    with engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.exec_driver_sql(MOVE)
        transaction.prepare()
        transaction.rollback()
    assert look(watched, engine) == ({"tenant_1.orders"}, {"tenant_1.orders"})


# What the application sets by statements


@pytest.mark.parametrize(
    "undo", ["RESET ALL", "RESET search_path", "SET search_path TO DEFAULT", "DISCARD ALL"]
)
def test_what_is_undone(watched, engine, undo):
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for sql in (MOVE, "SET enable_sort = off", undo):
            connection.exec_driver_sql(sql)
    assert look(watched, engine) == ({"public.orders"}, {"public.orders"})


def test_a_role_that_is_reset(watched, engine):
    def take(connection):
        connection.exec_driver_sql("SET ROLE pg_read_all_data")
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql('SET search_path TO "tenant_3", "$user"')

    assert look(watched, engine, take) == ({"tenant_3.orders"}, {"tenant_3.orders"})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT set_config('app.user', login('alice'), true)",
        "SELECT set_config('app.user', (SELECT login('bob')), true)",
        "SELECT set_config('app.user', 'x', length(login('x')) = 1)",
        "WITH one AS (SELECT set_config('app.user', login('x'), true)) SELECT * FROM one",
    ],
)
def test_no_function_of_the_application_runs_again(watched, engine, tenants, sql):
    before = tenants.scalar("SELECT coalesce(max(last_value), 0) FROM logins WHERE is_called")
    planned, _ = look(watched, engine, lambda connection: connection.exec_driver_sql(sql).all())
    assert planned == UNKNOWN
    after = tenants.scalar("SELECT max(last_value) FROM logins")
    assert after == before + 1


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL transaction_read_only = off",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET LOCAL statement_timeout = 0",
        "SELECT set_config('lock_timeout', '0', true)",
        "RESET ALL",
    ],
)
def test_the_limits_stay(watched, engine, tenants, sql):
    """A function that the planner calls says what its transaction is like."""
    tenants.execute(
        "CREATE OR REPLACE FUNCTION public.limits() RETURNS int STABLE LANGUAGE plpgsql AS $$ "
        "BEGIN IF current_setting('application_name') = 'flask-planwatch' AND ("
        "current_setting('transaction_read_only') <> 'on' "
        "OR current_setting('statement_timeout') = '0' OR current_setting('lock_timeout') = '0') "
        "THEN RAISE EXCEPTION 'unlimited'; END IF; RETURN 7; END $$"
    )
    with watched.app.app_context(), engine.connect() as connection:
        connection.exec_driver_sql(sql)
        connection.exec_driver_sql("SELECT id FROM orders WHERE customer = limits()").all()
        assert watched.planwatch.flush(120)
    stats = watched.planwatch.stats()
    assert (stats["inspected"], stats["skipped"], stats["errors"]) == (
        1 + sql.count("SELECT"),
        {},
        0,
    )


# Schemas that SQLAlchemy puts in

ORDERS = sa.Table(
    "orders", sa.MetaData(), sa.Column("id"), sa.Column("customer"), schema="per_tenant"
)


def test_a_translated_schema_belongs_to_a_statement(kind, tenants, watch):
    """Each tenant is looked at, in one request and within one interval."""
    watched = watch(tenants.url_for(kind[1]), PLANWATCH_SAMPLE_INTERVAL=300)
    query = sa.select(ORDERS.c.id).where(ORDERS.c.customer == 7)
    planned = []

    def receive(sender, inspection):
        planned.append({scan.qualified_relation for scan in inspection.plan.scans})

    with statement_inspected.connected_to(receive, watched.app), watched.app.app_context():
        for schema in SCHEMAS * 2:
            options = {"schema_translate_map": {"per_tenant": schema}}
            with watched.db.engine.connect().execution_options(**options) as connection:
                connection.execute(query).all()
        assert watched.planwatch.flush(120)
    assert planned == [{f"{schema}.orders"} for schema in SCHEMAS]
    found = {finding.relation: finding for finding in watched.planwatch.findings()}
    assert set(found) == {f"{schema}.orders" for schema in SCHEMAS[1:]}
    assert all(f" ON {name} " in found[name].advice[0].summary for name in found)


def test_translated_schemas_in_one_request(kind, tenants, watch):
    watched = watch(tenants.url_for(kind[1]))
    query = sa.select(ORDERS.c.id).where(ORDERS.c.customer == 7)

    @watched.app.get("/")
    def index():
        for schema in SCHEMAS * 2:
            options = {"schema_translate_map": {"per_tenant": schema}}
            with watched.db.engine.connect().execution_options(**options) as connection:
                connection.execute(query).all()
        return ""

    watched.app.test_client().get("/")
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["inspected"] == len(SCHEMAS)


def test_other_instrumentation_is_in_no_way(watched, engine):
    """OpenTelemetry counts connections and marks statements by listeners of its own."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy")
    instrumentor = instrumentation.SQLAlchemyInstrumentor()
    instrumentor.instrument(engine=engine, enable_commenter=False)
    try:
        assert look(watched, engine) == ({"public.orders"}, {"public.orders"})
    finally:
        instrumentor.uninstrument()

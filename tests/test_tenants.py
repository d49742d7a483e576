"""Applications that serve several tenants from one database: each is judged by its own tables."""

from __future__ import annotations

from contextlib import closing, contextmanager

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event, func

from flask_planwatch.capture.driver import known_of, search_path_of
from flask_planwatch.capture.state_change import changes
from flask_planwatch.signals import statement_inspected

from . import servers
from .databases import make_database

pytestmark = pytest.mark.versions

ORDERS = sa.text("SELECT id FROM orders WHERE customer = :customer")
MISSING = ("tenant_1.orders", "missing-index")

TABLE = """
CREATE TABLE {schema}.orders AS
SELECT n AS id, n AS customer, n % 2 AS tenant FROM generate_series(1, 5000) n
"""


@pytest.fixture(params=[(servers.FIRST, "psycopg"), (servers.HYPOPG, "psycopg2")], ids=str)
def kind(request):
    """A server and a driver: both of each, but not all combinations."""
    return request.param


@pytest.fixture
def tenants(kind):
    """A database in which tenant_1 lacks the index that tenant_2 has."""
    for database in make_database(servers.find_server(kind[0]), None):
        for schema in ("tenant_1", "tenant_2"):
            database.execute(f"CREATE SCHEMA {schema}", TABLE.format(schema=schema))
        database.execute("CREATE INDEX orders_customer ON tenant_2.orders (customer)", "ANALYZE")
        yield database


@contextmanager
def role(database, name, *options):
    """A role of one test, with access to what there is."""
    name = f"{name}_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN {' '.join(options)}")
    for schema in ("public", "tenant_1", "tenant_2"):
        database.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO {name}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {name}",
        )
    yield name
    database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.fixture
def driver(kind):
    return kind[1]


@pytest.fixture
def watched(driver, tenants, watch):
    return watch(tenants.url_for(driver))


def by_set(connection, tenant):
    connection.exec_driver_sql(f"SET search_path TO {tenant}")


def by_set_local(connection, tenant):
    connection.execute(sa.text(f"SET LOCAL search_path = {tenant}, public"))


def by_set_config(connection, tenant):
    connection.execute(sa.select(func.set_config("search_path", tenant, True)))


def by_a_committed_set_config(connection, tenant):
    connection.execute(sa.select(func.set_config("search_path", tenant, False)))
    connection.commit()


def ask(watched, prepare, *arguments, statement=ORDERS):
    """Run the statement on a connection that was prepared, and return what is found by then."""
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        prepare(connection, *arguments)
        connection.execute(statement, {"customer": 7}).all()
    assert watched.planwatch.flush(120)
    return [(finding.relation, finding.rule) for finding in watched.planwatch.findings()]


def engine_of(watched):
    with watched.app.app_context():
        return watched.db.engine


def release(watched):
    """Close all connections, so that their roles can be dropped."""
    watched.planwatch.unwatch(engine_of(watched))
    engine_of(watched).dispose()


def skipped(watched):
    stats = watched.planwatch.stats()
    assert stats["errors"] == 0
    return stats["skipped"]


@pytest.mark.parametrize("way", [by_set, by_set_local, by_set_config, by_a_committed_set_config])
def test_each_tenant_is_judged_by_its_own_tables(watched, way):
    assert ask(watched, way, "tenant_2") == []
    assert ask(watched, way, "tenant_1") == [MISSING]
    # That the other tenant has the index says nothing of this one.
    assert ask(watched, way, "tenant_2") == [MISSING]
    assert skipped(watched) == {}


def test_the_fix_is_the_tenants_and_ends_the_finding(watched, tenants):
    ask(watched, by_set, "tenant_1")
    (finding,) = watched.planwatch.findings()
    (advice, *_) = finding.advice
    assert " ON tenant_1.orders " in advice.summary
    tenants.execute(*advice.ddl)
    assert ask(watched, by_set, "tenant_1") == []


def test_each_tenant_has_an_interval_of_its_own(driver, tenants, watch):
    watched = watch(tenants.url_for(driver), PLANWATCH_SAMPLE_INTERVAL=300)
    assert ask(watched, by_set, "tenant_2") == []
    assert ask(watched, by_set, "tenant_2") == []
    assert ask(watched, by_set, "tenant_1") == [MISSING]
    assert watched.planwatch.stats()["inspected"] == 2


def test_a_search_path_that_was_rolled_back(watched, tenants):
    tenants.execute("CREATE TABLE public.orders AS SELECT 1 AS id, 1 AS customer")

    def rolled_back(connection):
        with connection.begin_nested() as savepoint:
            by_set(connection, "tenant_1")
            savepoint.rollback()

    assert ask(watched, rolled_back) == []
    assert ask(watched, lambda connection: (by_set(connection, "x"), connection.rollback())) == []
    assert skipped(watched) == {}


def test_a_role_whose_schema_bears_its_name(watched, tenants):
    with role(tenants, "tenant") as name:
        tenants.execute(
            f"CREATE SCHEMA {name} AUTHORIZATION {name}",
            TABLE.format(schema=name),
            f"ALTER TABLE {name}.orders OWNER TO {name}",
            "CREATE TABLE public.orders (id int, customer int PRIMARY KEY)",
            "ANALYZE",
        )

        def by_role(connection):
            connection.exec_driver_sql(f"SET ROLE {name}")

        assert ask(watched, by_role) == [(f"{name}.orders", "missing-index")]


def test_a_role_that_planwatch_may_not_take(driver, tenants, watch):
    with role(tenants, "app") as app, role(tenants, "planwatch") as planwatch:
        watched = watch(
            tenants.url_for(driver),
            PLANWATCH_DATABASE_URL=tenants.url_for(driver, username=planwatch),
        )

        def by_role(connection):
            connection.exec_driver_sql(f"SET ROLE {app}")
            by_set_local(connection, "tenant_1")

        assert ask(watched, by_role) == []
        assert skipped(watched) == {"session-state-unknown": 1}
        release(watched)


def test_row_level_security_by_a_setting(driver, tenants, watch):
    """The policy asks for a setting that only exists where the application has set it."""
    with role(tenants, "app") as app:
        tenants.execute(
            "ALTER TABLE tenant_1.orders ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY own ON tenant_1.orders "
            "USING (tenant = current_setting('app.tenant')::int)",
        )
        watched = watch(tenants.url_for(driver, username=app), PLANWATCH_SHOW_PARAMETERS=True)
        seen = []

        def receive(sender, inspection):
            seen.append(inspection)

        def by_setting(connection):
            by_set_local(connection, "tenant_1")
            connection.execute(sa.select(func.set_config("app.tenant", "1", True)))

        with statement_inspected.connected_to(receive, watched.app):
            found = ask(watched, by_setting)
        assert skipped(watched) == {}
        assert found == [MISSING]
        texts = [one.plan.as_text() for one in seen if "FROM orders" in one.statement.text]
        assert ["current_setting('app.tenant'" in text for text in texts] == [True]
        release(watched)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["BYPASSRLS", "NOBYPASSRLS"])
def test_row_level_security_that_binds_the_application_only(driver, tenants, watch, option):
    with role(tenants, "app") as app, role(tenants, "planwatch", option) as planwatch:
        tenants.execute(
            "ALTER TABLE tenant_1.orders ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY own ON tenant_1.orders TO {app} USING (tenant = 1)",
        )
        watched = watch(
            tenants.url_for(driver, username=app),
            PLANWATCH_DATABASE_URL=tenants.url_for(driver, username=planwatch),
        )
        for _ in range(4):
            assert ask(watched, by_set_local, "tenant_1") == []
        assert skipped(watched) == {"session-state-unknown": 4}
        # Nothing is learnt from a plan that is not the application's.
        assert not watched.app.extensions["planwatch"].calibration._known
        # The other tenant's table has no policies.
        ask(watched, by_set_local, "tenant_2")
        assert skipped(watched) == {"session-state-unknown": 4}
        release(watched)


@pytest.mark.slow
@pytest.mark.parametrize("own", ["role", "name", "options"])
def test_the_search_path_that_the_application_starts_with(driver, tenants, watch, own):
    """PlanWatch's own role would find another table of that name."""
    tenants.execute("CREATE TABLE public.orders (id int, customer int PRIMARY KEY)")
    with role(tenants, "app") as app, role(tenants, "planwatch") as planwatch:
        url = tenants.url_for(driver, username=app)
        relation = "tenant_1.orders"
        if own == "role":
            tenants.execute(f"ALTER ROLE {app} SET search_path = tenant_1, public")
        elif own == "name":
            tenants.execute(f"CREATE SCHEMA {app}", TABLE.format(schema=app), "ANALYZE")
            tenants.execute(
                f"GRANT USAGE ON SCHEMA {app} TO {app}, {planwatch}",
                f"GRANT SELECT ON {app}.orders TO {app}, {planwatch}",
            )
            relation = f"{app}.orders"
        else:
            url += f"{'&' if '?' in url else '?'}options=-csearch_path%3Dtenant_1"
        watched = watch(url, PLANWATCH_DATABASE_URL=tenants.url_for(driver, username=planwatch))
        assert ask(watched, lambda connection: None) == [(relation, "missing-index")]
        release(watched)


def test_a_table_that_a_temporary_one_hides(watched, tenants):
    tenants.execute("CREATE TABLE public.orders (id int, customer int)")

    def temporary(connection):
        connection.exec_driver_sql("CREATE TEMP TABLE Orders AS SELECT 1 AS id, 2 AS customer")

    assert ask(watched, temporary) == []
    assert skipped(watched) == {"not-visible": 1}


def test_a_listener_of_the_pool_sets_what_no_hook_sees(watched, tenants):
    """PostgreSQL 18 reports a search path; where nothing tells it, nothing is judged."""
    tenants.execute("CREATE TABLE public.orders (id int, customer int PRIMARY KEY)")
    tenant = "tenant_1"

    def choose_tenant(connection, *_):
        with connection.cursor() as cursor:
            cursor.execute(f"SET search_path TO {tenant}")
        connection.commit()

    event.listen(engine_of(watched), "checkout", choose_tenant)
    found = ask(watched, lambda connection: None)
    if int(str(tenants.scalar("SHOW server_version_num"))) >= 180000:
        assert (found, skipped(watched)) == ([MISSING], {})
    else:
        assert (found, skipped(watched)) == ([], {"session-state-unknown": 1})


def test_what_cannot_be_repeated_is_skipped(watched):
    def by_block(connection):
        connection.exec_driver_sql("DO $$ BEGIN SET LOCAL search_path TO tenant_1; END $$")

    assert ask(watched, by_block) == []
    assert skipped(watched) == {"session-state-unknown": 1}


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("name", ["tenant_1", "müllers Küche"])
def test_the_search_path_is_what_the_server_says_until_it_ends(story, driver, name):
    engine, known = sa.create_engine(story.url_for(driver)), []
    with engine.connect() as connection:
        mine = connection.connection.dbapi_connection
        is_reported = search_path_of(mine) is not None
        connection.exec_driver_sql(f'SET search_path TO "{name}"')
        shown = connection.exec_driver_sql("SHOW search_path").scalar()
        assert search_path_of(mine) == (shown if is_reported else None)
        event.listen(engine, "handle_error", lambda _: known.append(known_of(mine)))
        with pytest.raises(sa.exc.DBAPIError):
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
    assert [one["search_path"] for one in known] == [shown if is_reported else None]
    engine.dispose()


#: Values as they may stand in a SET or in a set_config, read or not.
WRITTEN = [
    *("x", "X", "'X'", '"X"', "'it''s'", "'a, b'", "x, y", "on", "true", "64", "-3", "+3", "1.5"),
    *("E'x'", r"E'it\'s'", "$$x$$", "$q$it's$q$", "U&'x'", "'a' 'b'", "'a'\n'b'", r"'a\b'"),
    *("'100%'", "'x' -- '", "/* ' */ 'x'", "'/* x */'", "'a;b'", "''", "'München'", "München"),
    *("'x'::text", "'xyz'::varchar(2)", "CAST('x' AS text)", "('x')", "upper('x')"),
    *("'a' || 'b'", "NULL::text"),
]


@pytest.mark.parametrize("form", ["SET a.b TO {}", "SELECT set_config('a.b', {}\n, false)"])
def test_what_is_read_is_what_the_server_sets(database, form):
    read = 0
    url = sa.make_url(database.url).set(drivername="postgresql")
    with closing(psycopg.connect(url.render_as_string(hide_password=False))) as connection:
        for sql in map(form.format, WRITTEN):
            try:
                connection.execute(sql)
            except psycopg.Error:
                connection.rollback()
                continue
            (really,) = connection.execute("SELECT current_setting('a.b')").fetchone()
            connection.rollback()
            (change,) = changes(sql, None)
            assert change.unknown or (change.value or "") == really, sql
            read += not change.unknown
    assert read >= 12

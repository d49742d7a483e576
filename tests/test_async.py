"""Async engines: captured through the engine they wrap, inspected on a loop of PlanWatch's."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from functools import partial

import pytest
import sqlalchemy as sa
from flask import Flask, jsonify
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from flask_planwatch import PlanWatch, VerdictStatus
from flask_planwatch.signals import statement_inspected
from flask_planwatch.watcher import DISPOSED, Watcher

from .conditions import PATIENCE, becomes
from .models import User
from .stories import GENERIC_PLAN, HUGE, RARE, Invoice

pytestmark = pytest.mark.versions

LOGIN = sa.select(User.id).where(func.lower(User.email) == "user7@example.com")
HARMFUL = [name for name, case in GENERIC_PLAN.items() if case.flips and case.harmful]


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request):
    return request.param


@pytest.fixture
def make():
    """Return a function that makes an app, its PlanWatch, and a watched async engine."""
    made = []

    def make(url, *, engine_options=None, **config):
        app = Flask("tests.app")
        app.config.update(
            PLANWATCH_SAMPLE_INTERVAL=0,
            PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
            # How long a statement takes says nothing on a busy machine.
            PLANWATCH_IGNORE=["cost-mismatch"],
        )
        app.config.update(config)
        planwatch = PlanWatch(app)
        engine = create_async_engine(url, **(engine_options or {}))
        planwatch.watch(engine, app)
        made.append((app, planwatch, engine))
        FLUSHES[id(engine)] = partial(planwatch.flush, PATIENCE, app)
        return app, planwatch, engine

    yield make
    for app, planwatch, engine in made:
        planwatch.unwatch(engine, app)


#: How to wait for the inspections of an engine, by its identity.
FLUSHES = {}


async def dispose(engine):
    """Dispose of an engine once its statements are inspected: what waits is not, after that."""
    await asyncio.to_thread(FLUSHES[id(engine)])
    await engine.dispose()


def run(engine, *steps):
    """Run statements on one connection in a loop of their own; a string ends the transaction."""

    async def main():
        try:
            async with engine.connect() as connection:
                for step in steps:
                    if isinstance(step, str):
                        await getattr(connection, step)()
                    else:
                        (await connection.execute(step)).all()
        finally:
            await dispose(engine)

    asyncio.run(main())


def test_a_finding_and_its_fix(driver, each_story, make):
    app, planwatch, engine = make(each_story.url_for(driver), PLANWATCH_VERIFY="build")
    run(engine, LOGIN)
    assert planwatch.flush(120, app)
    (finding,) = planwatch.findings(app)
    assert (finding.rule, finding.relation) == ("functional-predicate", '"user"')
    assert finding.advice[0].verdict.status is VerdictStatus.VERIFIED
    assert finding.location.path == __file__
    each_story.execute(*finding.advice[0].ddl)
    run(engine, LOGIN)
    assert planwatch.flush(120, app)
    assert planwatch.findings(app) == ()
    assert planwatch.stats(app)["errors"] == 0
    each_story.execute("DROP INDEX ix_user_lower_email")


def request(engine, *, statements=1, disposes=True):
    """Run statements in an event loop of their own, as a view that calls asyncio.run."""

    async def main():
        async with engine.connect() as connection:
            for _ in range(statements):
                (await connection.execute(LOGIN)).all()
        if disposes:
            await engine.dispose()

    asyncio.run(main())


@pytest.fixture
def hold(monkeypatch):
    """Return a context in which PlanWatch's thread does not begin an inspection."""
    free = threading.Event()
    begin = Watcher.begin
    monkeypatch.setattr(Watcher, "begin", lambda watcher: free.wait(60) and begin(watcher))

    @contextmanager
    def hold():
        free.clear()
        yield
        free.set()

    yield hold
    free.set()


def disposals_said(caplog):
    return [one for one in caplog.messages if "disposed of the engine" in one]


def test_a_developer_is_told_once_that_each_request_disposes_of_the_engine(
    driver, story, make, caplog, hold
):
    app, planwatch, engine = make(story.url_for(driver), DEBUG=True)
    for number in range(6):
        with hold():
            request(engine)
        assert planwatch.flush(120, app)
        assert len(disposals_said(caplog)) == (number >= 2)
    assert planwatch.stats(app)["skipped"] == {"unwatched": 6}
    assert disposals_said(caplog) == [DISPOSED.format(name=story.name)]


def test_a_developer_is_told_that_each_request_has_an_engine_of_its_own(
    driver, story, make, caplog, capsys, hold
):
    app, planwatch, first = make(story.url_for(driver), DEBUG=True)
    for number in range(4):
        engine = first if number == 0 else create_async_engine(first.url)
        planwatch.watch(engine, app)
        with hold():
            request(engine)
        del engine
        assert planwatch.flush(120, app)
        assert len(disposals_said(caplog)) == (number >= 2)
    # The line at the start names it once.
    assert capsys.readouterr().err.count("PlanWatch watches") == 1


@pytest.mark.parametrize(
    ("debug", "requests"), [(True, [4]), (True, [1, 1]), (False, [1, 1, 1, 1])]
)
def test_few_disposals_and_any_in_production_are_not_told(
    driver, story, make, caplog, hold, debug, requests
):
    app, planwatch, engine = make(story.url_for(driver), DEBUG=debug)
    for statements in requests:
        with hold():
            request(engine, statements=statements)
        assert planwatch.flush(120, app)
    assert planwatch.stats(app)["skipped"] == {"unwatched": sum(requests)}
    assert disposals_said(caplog) == []


def test_disposals_with_an_inspection_between_them_are_not_told(driver, story, make, caplog, hold):
    app, planwatch, engine = make(story.url_for(driver), DEBUG=True)
    for _ in range(2):
        for _ in range(2):
            with hold():
                request(engine)
            assert planwatch.flush(120, app)
        run(engine, LOGIN)
    stats = planwatch.stats(app)
    assert (stats["inspected"], stats["skipped"]) == (2, {"unwatched": 4})
    assert disposals_said(caplog) == []


def test_without_a_pool_each_request_with_a_loop_of_its_own_is_inspected(
    driver, story, make, caplog
):
    """What the message advises."""
    app, planwatch, engine = make(
        story.url_for(driver), DEBUG=True, engine_options={"poolclass": NullPool}
    )
    for _ in range(4):
        request(engine, disposes=False)
        assert planwatch.flush(120, app)
    stats = planwatch.stats(app)
    assert (stats["inspected"], stats["skipped"]) == (4, {})
    assert len(planwatch.findings(app)) == 1
    assert disposals_said(caplog) == []


@pytest.mark.slow
def test_what_the_application_connects_with(driver, story, make):
    """PlanWatch's own URL does not tell it."""
    planned = []

    def receive(sender, inspection):
        planned.append(inspection.plan.root.type)

    if driver == "asyncpg":
        arguments = {"server_settings": {"enable_seqscan": "off", "application_name": "a b"}}
    else:
        arguments = {"options": "-c enable_seqscan=off -c application_name=a\\ b"}
    for engine_options in ({}, {"connect_args": arguments}):
        app, planwatch, engine = make(
            story.url_for(driver),
            PLANWATCH_DATABASE_URL=story.url_for(driver),
            engine_options=engine_options,
        )
        with statement_inspected.connected_to(receive, app):
            run(engine, sa.select(User).where(User.id < 99_000))
            assert planwatch.flush(120, app)
        assert planwatch.stats(app)["errors"] == 0
    assert planned[0] == "Seq Scan"
    assert planned[1] in {"Bitmap Heap Scan", "Index Scan", "Index Only Scan"}


def test_an_async_view(driver, story, make):
    app, planwatch, engine = make(story.url_for(driver))

    @app.get("/login")
    async def login():
        async with AsyncSession(engine) as session:
            found = (await session.scalars(LOGIN)).all()
        await dispose(engine)
        return jsonify(found)

    response = app.test_client().get("/login")
    assert response.json == [7]
    assert planwatch.flush(120, app)
    (finding,) = planwatch.findings(app)
    assert finding.endpoint == "login"
    assert (finding.location.path, finding.location.library) == (__file__, False)
    assert finding.location.function.endswith("login")


def test_the_connection_is_one_and_closes(driver, database, make):
    app, planwatch, engine = make(database.url_for(driver))
    threads, counted = [], []

    def receive(sender, inspection):
        threads.append(threading.current_thread().name)

    async def main():
        async with engine.connect() as connection:
            for _ in range(5):
                await connection.execute(sa.text("SELECT count(*) FROM pg_class"))
        assert await asyncio.to_thread(planwatch.flush, 30, app)
        counted.append(len(await asyncio.to_thread(database.clients)))
        await dispose(engine)
        assert await asyncio.to_thread(becomes, lambda: not database.clients())

    with statement_inspected.connected_to(receive, app):
        asyncio.run(main())
    assert threads == ["flask-planwatch"] * 5
    # PlanWatch's connection and the pool's; then none.
    assert counted == [2]


def test_a_server_that_ends_the_connection(driver, story, make):
    app, planwatch, engine = make(story.url_for(driver))
    run(engine, LOGIN)
    assert planwatch.flush(120, app)
    story.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    run(engine, LOGIN)
    assert planwatch.flush(120, app)
    stats = planwatch.stats(app)
    assert (stats["inspected"], stats["skipped"], stats["errors"]) == (2, {}, 0)


def test_a_failed_statement_breaks_as_without_planwatch(driver, story, make):
    app, planwatch, engine = make(story.url_for(driver))
    with pytest.raises(sa.exc.DBAPIError):
        run(engine, sa.text("SELECT nothing FROM nowhere"))
    run(engine, sa.select(User.id).where(User.id == 1))
    assert planwatch.flush(120, app)
    stats = planwatch.stats(app)
    assert (stats["inspected"], stats["skipped"]) == (1, {"statement-invalid": 1})


def test_a_tenant_of_an_async_engine(driver, story, make):
    app, planwatch, engine = make(story.url_for(driver))
    story.execute(
        "CREATE SCHEMA IF NOT EXISTS tenant",
        "CREATE TABLE IF NOT EXISTS tenant.visits AS "
        "SELECT n AS id FROM generate_series(1, 5000) n",
        "ANALYZE tenant.visits",
    )
    visits = sa.text("SELECT * FROM visits WHERE id = 7")
    run(engine, sa.select(func.set_config("search_path", "tenant", True)), visits, "rollback")
    assert planwatch.flush(120, app)
    assert [finding.relation for finding in planwatch.findings(app)] == ["tenant.visits"]


def test_in_debug_mode_an_async_driver_is_not_asked_what_it_prepared(driver, story, make):
    app, planwatch, engine = make(story.url_for(driver), DEBUG=True)
    statement = sa.select(User.id).where(User.id == sa.bindparam("wanted", 1))
    run(engine, statement, statement, statement)
    assert planwatch.flush(120, app)
    stats = planwatch.stats(app)
    assert (stats["captured"], stats["inspected"], stats["errors"]) == (3, 3, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", HARMFUL)
def test_generic_plans_of_asyncpg(each_stories, make, name):
    """It prepares at once and forgets nothing at a ROLLBACK, so the sixth execution decides."""
    case = GENERIC_PLAN[name]
    app, planwatch, engine = make(each_stories.url_for("asyncpg"), PLANWATCH_GROWTH=True)
    seen = []

    async def main():
        async with engine.connect() as connection:
            for value in [case.first] * 5 + [case.then] * 2:
                (await connection.execute(case.build(value))).all()
                await connection.rollback()
            asked = await connection.execute(
                sa.text(
                    "SELECT generic_plans, custom_plans FROM pg_prepared_statements "
                    "WHERE statement NOT LIKE '%pg_prepared_statements%' "
                    "AND generic_plans + custom_plans > 5"
                ).execution_options(planwatch=False)
            )
            seen.extend(asked.all())
        await dispose(engine)

    asyncio.run(main())
    assert planwatch.flush(120, app)
    (finding,) = [one for one in planwatch.findings(app) if one.rule == "generic-plan"]
    # What the server did is what PlanWatch says.
    assert seen == [(2, 5)]
    assert finding.evidence["chosen_at_execution"] == 6
    assert (finding.evidence["driver"], finding.evidence["prepare_threshold"]) == ("asyncpg", 0)
    assert "asyncpg prepares the statement at once" in finding.message
    rewrite, *settings = finding.advice
    assert rewrite.kind == "rewrite"
    assert rewrite.verdict.status is VerdictStatus.VERIFIED
    assert "prepared_statement_cache_size" in settings[1].sqlalchemy


AMOUNT = sa.select(func.sum(Invoice.amount))
PAIR = sa.tuple_(Invoice.tenant_id, Invoice.customer_id)
LISTS = {
    "list": lambda admin, tenant: sa.or_(sa.literal(admin), Invoice.tenant_id.in_([tenant, -1])),
    "lists among others": lambda admin, tenant: sa.and_(
        sa.or_(Invoice.tenant_id.in_([tenant, -1, -2]), sa.literal(admin)),
        Invoice.amount < 10**6,
        Invoice.customer_id.not_in([-1, -2]),
        Invoice.id > 0,
    ),
    "tuples": lambda admin, tenant: sa.or_(sa.literal(admin), PAIR.in_([(tenant, 1), (-1, 2)])),
    "used twice": lambda admin, tenant: sa.or_(
        sa.literal(admin),
        *(
            Invoice.tenant_id.in_(sa.bindparam(name, [tenant, -1], expanding=True))
            for name in ("tenants", "tenants", "others")
        ),
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_generic_plans_of_lists_with_asyncpg(each_stories, make, name):
    """The text has a number for each value of a list, after those of all other parameters."""
    app, planwatch, engine = make(each_stories.url_for("asyncpg"), PLANWATCH_GROWTH=True)
    answers = []

    def receive(sender, inspection):
        said = (*inspection.findings, *inspection.dismissals)
        answers.extend(one.relation for one in said if one.rule == "generic-plan")

    statements = [AMOUNT.where(LISTS[name](False, tenant)) for tenant in [HUGE] * 6 + [RARE]]
    with statement_inspected.connected_to(receive, sender=app):
        run(engine, *statements)
        assert planwatch.flush(120, app)
    assert planwatch.stats(app)["skipped"] == {}
    assert answers == ["invoice"] * len(statements)


def test_generic_plan_of_sql_that_is_the_drivers_own(each_stories, make):
    app, planwatch, engine = make(each_stories.url_for("asyncpg"), PLANWATCH_GROWTH=True)
    sql = "SELECT sum(amount) FROM invoice WHERE $1 OR tenant_id = $2"

    async def main():
        async with engine.connect() as connection:
            for tenant in [HUGE] * 6 + [RARE] * 2:
                await connection.exec_driver_sql(sql, (False, tenant))
        await dispose(engine)

    asyncio.run(main())
    assert planwatch.flush(120, app)
    assert planwatch.stats(app)["skipped"] == {}
    (finding,) = [one for one in planwatch.findings(app) if one.rule == "generic-plan"]
    assert finding.advice[0].kind == "rewrite"


def test_no_generic_plan_without_a_cache_of_prepared_statements(each_stories, make):
    case = GENERIC_PLAN[HARMFUL[0]]
    options = {"connect_args": {"prepared_statement_cache_size": 0}}
    app, planwatch, engine = make(
        each_stories.url_for("asyncpg"), PLANWATCH_GROWTH=True, engine_options=options
    )
    run(engine, *(case.build(value) for value in [case.first] * 6 + [case.then] * 3))
    assert planwatch.flush(120, app)
    assert all(one.rule != "generic-plan" for one in planwatch.findings(app))

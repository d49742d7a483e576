"""What others record of the drivers: the application's statements, and none of PlanWatch's."""

from __future__ import annotations

import asyncio
from functools import partial

import psycopg
import pytest
import sentry_sdk
import sqlalchemy as sa
from flask import Flask
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations import sqlalchemy as sqlalchemy_integration
from sentry_sdk.integrations.asyncpg import AsyncPGIntegration
from sentry_sdk.integrations.sqlalchemy import SqlalchemyIntegration
from sentry_sdk.integrations.threading import ThreadingIntegration
from sentry_sdk.transport import Transport
from sqlalchemy.ext.asyncio import create_async_engine

from flask_planwatch import PlanWatch

INSTRUMENTORS = {
    "psycopg2": Psycopg2Instrumentor,
    "psycopg": PsycopgInstrumentor,
    "asyncpg": AsyncPGInstrumentor,
}

LOGIN = sa.text("SELECT id FROM \"user\" WHERE lower(email) = 'user7@example.com'")


@pytest.fixture(params=list(INSTRUMENTORS))
def driver(request):
    return request.param


def run(url, *, watched):
    """Run a statement twice, and have it inspected; return the counters."""
    app = Flask("tests.app")
    app.config.update(PLANWATCH_SAMPLE_INTERVAL=0, PLANWATCH_STATEMENT_TIMEOUT_MS=30_000)
    planwatch = PlanWatch(app)
    make = create_async_engine if "asyncpg" in url else sa.create_engine
    engine = make(url)
    if watched:
        planwatch.watch(engine, app)
    if "asyncpg" in url:
        asyncio.run(run_async(engine, partial(planwatch.flush, 30, app)))
    else:
        with engine.connect() as connection:
            for _ in range(2):
                connection.execute(LOGIN).all()
        assert planwatch.flush(120, app)
        engine.dispose()
    planwatch.unwatch(engine, app)
    return planwatch.stats(app)


async def run_async(engine, flush):
    async with engine.connect() as connection:
        for _ in range(2):
            (await connection.execute(LOGIN)).all()
    assert await asyncio.to_thread(flush)
    await engine.dispose()


@pytest.fixture(autouse=True)
def psycopg_as_it_was():
    """What OpenTelemetry puts back into a class no longer makes objects of its subclasses."""
    classes = (psycopg.Connection, psycopg.AsyncConnection)
    connects = [vars(kind)["connect"] for kind in classes]
    yield
    for kind, connect in zip(classes, connects, strict=True):
        kind.connect = connect


def test_opentelemetry_gets_the_same_spans(driver, each_story):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = INSTRUMENTORS[driver]()
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        told = {}
        for watched in (False, True):
            exporter.clear()
            stats = run(each_story.url_for(driver), watched=watched)
            told[watched] = [span.name for span in exporter.get_finished_spans()]
    finally:
        instrumentor.uninstrument()
    assert stats["inspected"] == 2
    assert any("SELECT" in name or name == "SELECT" for name in told[True])
    assert told[True] == told[False]


#: Whether a test with Sentry has ended.
_ENDED = []


@pytest.fixture
def sentry_listens():
    """Have Sentry listen to all engines, as long as the test lasts."""
    hooks = {
        "before_cursor_execute": sqlalchemy_integration._before_cursor_execute,
        "after_cursor_execute": sqlalchemy_integration._after_cursor_execute,
        "handle_error": sqlalchemy_integration._handle_error,
    }
    if _ENDED:
        # Sentry itself does that once in a process.
        for name, hook in hooks.items():
            sa.event.listen(sa.Engine, name, hook)
    yield
    _ENDED.append(True)
    for name, hook in hooks.items():
        sa.event.remove(sa.Engine, name, hook)


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self):
        super().__init__()
        self.envelopes = []

    def capture_envelope(self, envelope):
        self.envelopes.append(envelope)


@pytest.mark.usefixtures("sentry_listens")
def test_sentry_gets_the_same_spans_and_breadcrumbs(driver, each_story):
    told = {}
    for watched in (False, True):
        transport = Kept()
        client = sentry_sdk.Client(
            dsn="https://key@sentry.invalid/1",
            transport=transport,
            traces_sample_rate=1.0,
            default_integrations=False,
            # Threads go on with the request's scope, as they do by default.
            integrations=[SqlalchemyIntegration(), AsyncPGIntegration(), ThreadingIntegration()],
        )
        with sentry_sdk.isolation_scope(), sentry_sdk.new_scope() as scope:
            scope.set_client(client)
            sentry_sdk.get_global_scope().set_client(client)
            try:
                with sentry_sdk.start_transaction(name="request"):
                    stats = run(each_story.url_for(driver), watched=watched)
                sentry_sdk.capture_message("what was done")
            finally:
                sentry_sdk.get_global_scope().set_client(None)
        client.close()
        told[watched] = list(descriptions(transport.envelopes))
    assert stats["inspected"] == 2
    assert any("lower(email)" in one for one in told[True])
    assert told[True] == told[False]


def descriptions(envelopes):
    """Yield what the spans and breadcrumbs of events say."""
    for envelope in envelopes:
        for item in envelope.items:
            event = item.payload.json or {}
            for span in event.get("spans", ()):
                yield f"span {span.get('op')} {span.get('description')}"
            for crumb in event.get("breadcrumbs", {}).get("values", ()):
                yield f"breadcrumb {crumb.get('message')}"

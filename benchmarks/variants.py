"""What is compared: each variant makes an engine that something listens to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import sleep
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy import Engine, event

from flask_planwatch import PlanWatch
from flask_planwatch.signals import statement_inspected

from .workload import WORKLOADS, run_block

#: Longer than any run, in seconds.
_NEVER = 1e6

#: Seconds that PlanWatch's thread may take for the statements of one block.
_PATIENCE = 120.0

#: The distinct statements that PlanWatch has seen before.
FEW, MANY = 10, 100_000


class Unavailable(Exception):
    """A variant cannot be measured here, and why."""


@dataclass(frozen=True)
class Contestant:
    """One prepared variant: its engine, what surrounds each block, and what it says at the end."""

    engine: Engine
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    facts: Callable[[], dict[str, Any]] = dict


@dataclass(frozen=True)
class Variant:
    """One thing to measure; `prepare` raises ImportError or Unavailable if that cannot be."""

    title: str
    prepare: Callable[[Flask, sa.URL], Contestant]


def bare(app: Flask, url: sa.URL) -> Contestant:
    """SQLAlchemy, and nothing that listens."""
    return Contestant(sa.create_engine(url))


def empty_listeners(app: Flask, url: sa.URL) -> Contestant:
    """The floor of everything that listens to the cursor's events."""
    engine = sa.create_engine(url)
    for name in ("before_cursor_execute", "after_cursor_execute"):
        event.listen(engine, name, lambda *_: None)
    return Contestant(engine)


def planwatch(app: Flask, url: sa.URL, known: int = FEW) -> Contestant:
    """PlanWatch with statements that were inspected before, and others that it knows."""
    engine = sa.create_engine(url)
    app.config.update(PLANWATCH_SAMPLE_INTERVAL=_NEVER, PLANWATCH_INSPECTIONS_PER_MINUTE=600)
    watch = PlanWatch(app)
    watch.watch(engine, app)
    with engine.connect() as connection:
        for number in range(known):
            connection.exec_driver_sql(f"SELECT 1 AS column_{number}")
    _settle(watch, app, engine)
    return Contestant(engine, facts=lambda: watch.stats(app))


def planwatch_many(app: Flask, url: sa.URL) -> Contestant:
    """The same with many more statements."""
    return planwatch(app, url, MANY)


def planwatch_sampled(app: Flask, url: sa.URL) -> Contestant:
    """PlanWatch with each execution due; its own thread waits while a block runs."""
    engine = sa.create_engine(url)
    app.config.update(PLANWATCH_SAMPLE_INTERVAL=1e-9, PLANWATCH_INSPECTIONS_PER_MINUTE="none")
    watch = PlanWatch(app)
    watch.watch(engine, app)
    held, release = threading.Event(), threading.Event()

    def hold(*_: Any, **__: Any) -> None:
        held.set()
        release.wait()

    @contextmanager
    def around() -> Iterator[None]:
        held.clear()
        release.clear()
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
        # Else it would go on with its nap.
        watch.flush(0, app)
        if not held.wait(_PATIENCE):
            raise RuntimeError("PlanWatch did not inspect a statement that was due.")
        try:
            yield
        finally:
            # What waits for an engine that is not watched is skipped at once.
            watch.unwatch(engine, app)
            release.set()
            watch.flush(_PATIENCE, app)
            watch.watch(engine, app)

    statement_inspected.connect(hold, app, weak=False)
    return Contestant(engine, around, lambda: watch.stats(app))


def flask_sqlalchemy(app: Flask, url: sa.URL) -> Contestant:
    """Flask-SQLAlchemy's record of a request's queries."""
    from flask_sqlalchemy import SQLAlchemy

    app.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_RECORD_QUERIES=True)
    extension = SQLAlchemy(app)
    with app.app_context():
        return Contestant(extension.engine)


def opentelemetry_off(app: Flask, url: sa.URL) -> Contestant:
    """OpenTelemetry that samples nothing."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    return _opentelemetry(url, ALWAYS_OFF)


def opentelemetry_on(app: Flask, url: sa.URL) -> Contestant:
    """OpenTelemetry that samples everything, and throws it away in batches."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    return _opentelemetry(url, ALWAYS_ON)


def sentry(app: Flask, url: sa.URL) -> Contestant:
    """Sentry for errors alone."""
    return _sentry(url, 0.0)


def sentry_tracing(app: Flask, url: sa.URL) -> Contestant:
    """Sentry with each block as a transaction that is traced."""
    return _sentry(url, 1.0)


def auto_explain(app: Flask, url: sa.URL) -> Contestant:
    """The server's own module, which writes each plan to the server's log."""
    engine = sa.create_engine(url)

    def load(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("LOAD 'auto_explain'")
            cursor.execute("SET auto_explain.log_min_duration = 0")
        connection.commit()

    event.listen(engine, "connect", load)
    try:
        engine.connect().close()
    except sa.exc.DBAPIError as error:
        raise Unavailable(str(error.orig).splitlines()[0]) from error
    return Contestant(engine)


#: In the order of the table. The first is what all others are compared with.
VARIANTS = {
    "bare": Variant("bare SQLAlchemy", bare),
    "bare-again": Variant("bare again (the noise)", bare),
    "empty": Variant("empty listeners (the floor)", empty_listeners),
    "planwatch": Variant("PlanWatch", planwatch),
    "planwatch-many": Variant(f"PlanWatch, {MANY:,} statements known", planwatch_many),
    "planwatch-sampled": Variant("PlanWatch, sampled", planwatch_sampled),
    "flask-sqlalchemy": Variant("Flask-SQLAlchemy record queries", flask_sqlalchemy),
    "opentelemetry-off": Variant("OpenTelemetry, always off", opentelemetry_off),
    "opentelemetry-on": Variant("OpenTelemetry, always on", opentelemetry_on),
    "sentry": Variant("Sentry, errors", sentry),
    "sentry-tracing": Variant("Sentry, tracing", sentry_tracing),
    "auto-explain": Variant("auto_explain (on the server)", auto_explain),
}


def _settle(watch: PlanWatch, app: Flask, engine: Engine) -> None:
    """Run all workloads until none of their statements is due."""
    before: tuple[Any, ...] = ()
    for _ in range(40):
        for workload in WORKLOADS:
            run_block(engine, workload, 20)
        watch.flush(_PATIENCE, app)
        stats = watch.stats(app)
        after = (stats["inspected"], stats["skipped"], stats["dropped"], stats["over_budget"])
        if before == after:
            return
        before = after
        # The budget earns ten inspections in a second.
        sleep(0.5)
    raise RuntimeError(f"PlanWatch's statements stay due: {watch.stats(app)}")


def _opentelemetry(url: sa.URL, sampler: Any) -> Contestant:
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Discard(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    engine = sa.create_engine(url)
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    # It refuses a SQLAlchemy newer than it knows, and works with it.
    SQLAlchemyInstrumentor().instrument(
        engine=engine, tracer_provider=provider, skip_dep_check=True
    )
    return Contestant(engine)


def _sentry(url: sa.URL, rate: float) -> Contestant:
    import sentry_sdk
    from sentry_sdk.integrations.sqlalchemy import SqlalchemyIntegration
    from sentry_sdk.transport import Transport

    class Drop(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            """Send nothing."""

    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=Drop,
        traces_sample_rate=rate,
        integrations=[SqlalchemyIntegration()],
    )
    return Contestant(
        sa.create_engine(url), around=lambda: sentry_sdk.start_transaction(name="block")
    )


def serve(pipe: Any, name: str, url: sa.URL) -> None:
    """Run blocks of one variant in a process of its own, as the conductor asks for them.

    Sends first None or why the variant cannot be measured, then a Timing for each (workload,
    statements) received, and after None what the variant has to say.
    """
    app = Flask("benchmark")
    try:
        contestant = VARIANTS[name].prepare(app, url)
    except (ImportError, Unavailable) as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    while (order := pipe.recv()) is not None:
        with app.test_request_context(), contestant.around():
            timing = run_block(contestant.engine, *order)
        pipe.send(timing)
    pipe.send(contestant.facts())

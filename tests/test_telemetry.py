"""OpenTelemetry: the counters as metrics, and findings in the trace of their request."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import weakref

import pytest
import sqlalchemy as sa
from flask import Flask
from opentelemetry import trace
from opentelemetry.metrics import get_meter_provider, set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from sqlalchemy import func

from flask_planwatch import PlanWatch
from flask_planwatch.report.log import extra
from flask_planwatch.report.store import Changes
from flask_planwatch.report.telemetry import _METRICS, SpanReporter
from flask_planwatch.signals import statement_inspected

from .models import Badge, User

pytestmark = [pytest.mark.slow, pytest.mark.versions]

LOGIN = sa.select(User.id).where(func.lower(User.email) == "a-compared-value")


@pytest.fixture(scope="module")
def reader():
    """A reader of this process's metrics: their provider can be set once, and here after others."""
    PlanWatch(Flask("before"))
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    set_meter_provider(provider)
    assert get_meter_provider() is provider
    yield reader
    provider.shutdown()


@pytest.fixture(scope="module")
def spans():
    """An exporter of this process's spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    assert trace.get_tracer_provider() is provider
    yield exporter
    provider.shutdown()


@pytest.fixture(autouse=True)
def quiet(request, caplog):
    """OpenTelemetry's SDK logs what is wrong with instruments and spans: nothing is."""
    if "spans" in request.fixturenames:
        request.getfixturevalue("spans").clear()
    yield
    told = [one for when in ("call", "teardown") for one in caplog.get_records(when)]
    assert [one for one in told if one.name.startswith("opentelemetry")] == []


def collect(reader, app):
    """Return the metrics of an app, by name and reason, and their units."""
    values, units = {}, {}
    data = reader.get_metrics_data()
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    for scope in scopes:
        if scope.scope.name != "flask_planwatch":
            continue
        for metric in scope.metrics:
            for point in metric.data.data_points:
                attributes = dict(point.attributes)
                if attributes.pop("planwatch.app") != app:
                    continue
                assert attributes.pop("process.pid") == os.getpid()
                key = (metric.name, *attributes.values()) if attributes else metric.name
                assert key not in values
                values[key] = point.value
                units[metric.name] = metric.unit
    return values, units


def run(watched, *statements):
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement)


def test_each_counter_is_a_metric(story, watch, reader):
    watched = watch(story.url, PLANWATCH_INSPECTIONS_PER_MINUTE=3)
    # Apps of other tests may be there still.
    watched.app.name = "tests.counted"
    run(watched, LOGIN, "CREATE TEMPORARY TABLE own (a int)", "SELECT a FROM own", LOGIN)
    run(watched, LOGIN, sa.select(Badge.id))
    assert watched.planwatch.flush(120)
    stats = watched.planwatch.stats()
    values, units = collect(reader, "tests.counted")
    assert values == {
        "planwatch.captured": 5,
        "planwatch.sampled": 3,
        "planwatch.inspected": 2,
        ("planwatch.skipped", "not-visible"): 1,
        "planwatch.dropped": 0,
        "planwatch.over_budget": 2,
        "planwatch.errors": 0,
        "planwatch.own_time": pytest.approx(stats["own_ms"] / 1000),
        "planwatch.waiting": 0,
        "planwatch.findings": 1,
        "planwatch.worker.alive": 1,
    }
    assert units == {metric.name: metric.unit for metric in _METRICS}
    assert units["planwatch.own_time"] == "s"


def test_apps_are_told_apart_and_one_that_is_gone_is_forgotten(reader):
    kept = Flask("tests.kept")
    PlanWatch(kept)
    gone = Flask("tests.gone")
    PlanWatch(gone)
    assert collect(reader, "tests.kept")[0]["planwatch.captured"] == 0
    assert collect(reader, "tests.gone")[0]["planwatch.captured"] == 0
    reference = weakref.ref(gone)
    del gone
    gc.collect()
    assert reference() is None
    assert collect(reader, "tests.gone") == ({}, {})
    assert collect(reader, "tests.kept")[0]["planwatch.captured"] == 0


def test_apps_of_one_name_are_added_up(reader):
    apps = [Flask("tests.twin"), Flask("tests.twin")]
    for app in apps:
        PlanWatch(app)
        app.extensions["planwatch"].failed(ZeroDivisionError())
    assert collect(reader, "tests.twin")[0]["planwatch.errors"] == 2


def test_a_disabled_planwatch_has_no_metrics(reader):
    app = Flask("tests.disabled")
    app.config["PLANWATCH_ENABLED"] = False
    PlanWatch(app)
    assert collect(reader, "tests.disabled") == ({}, {})


def test_a_forked_child_reports_its_own_counters(story, watch, reader):
    watched = watch(story.url)
    watched.app.name = "tests.forking"
    run(watched, sa.select(Badge.id))
    assert watched.planwatch.flush(120)
    assert collect(reader, "tests.forking")[0]["planwatch.captured"] == 1
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with watched.app.app_context():
                watched.db.engine.dispose(close=False)
            run(watched, LOGIN, LOGIN, LOGIN)
            watched.planwatch.flush(120)
            data = json.loads(reader.get_metrics_data().to_json())
            os.write(sending, json.dumps(data).encode())
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        data = json.loads(pipe.read())
    os.waitpid(pid, 0)
    captured = {
        point["attributes"]["process.pid"]: point["value"]
        for resource in data["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
        if metric["name"] == "planwatch.captured"
        for point in metric["data"]["data_points"]
        if point["attributes"]["planwatch.app"] == "tests.forking"
    }
    assert captured.pop(pid) == 3
    assert captured == {}, captured
    assert collect(reader, "tests.forking")[0]["planwatch.captured"] == 1


# --- findings in traces


#: What an attribute cannot hold, or what is said of the advice of several findings.
LEFT_OUT = {
    "planwatch_evidence",
    "planwatch_advice_data",
    "planwatch_statements",
    "planwatch_time_share",
}


def flat(finding):
    """Return the attributes that a finding must have: its log fields that are flat."""
    fields = {
        name.replace("planwatch_", "planwatch."): tuple(value) if type(value) is list else value
        for name, value in extra(finding).items()
        if name not in LEFT_OUT and value is not None
    }
    return {**fields, "planwatch.message": finding.message}


def test_a_finding_is_an_event_of_the_span_that_still_runs(story, watch, spans):
    watched = watch(story.url, PLANWATCH_VERIFY="build")
    with trace.get_tracer("tests").start_as_current_span("request"):
        (finding,) = watched.ask(LOGIN)
    (span,) = spans.get_finished_spans()
    assert span.name == "request"
    (event,) = span.events
    assert event.name == "planwatch.finding"
    attributes = dict(event.attributes)
    assert attributes == flat(finding)
    assert attributes["planwatch.rule"] == "functional-predicate"
    assert attributes["planwatch.tables"] == ('"user"',)
    assert attributes["db.query.text"] == finding.statement.text
    assert attributes["code.line.number"] == finding.location.line
    assert "a-compared-value" not in str(attributes)


def test_a_finding_of_a_span_that_has_ended_is_a_span_with_a_link(story, watch, spans, held):
    watched = watch(story.url)
    with trace.get_tracer("tests").start_as_current_span("request") as request:
        run(watched, LOGIN)
    held.set()
    (finding,) = watched.findings()
    ended, span = spans.get_finished_spans()
    assert (ended.name, ended.events) == ("request", ())
    assert span.name == "planwatch.finding"
    assert span.parent is None
    assert span.context.trace_id != ended.context.trace_id
    (link,) = span.links
    assert link.context == request.get_span_context()
    assert dict(span.attributes) == flat(finding)
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope.name == "flask_planwatch"


def test_each_inspected_execution_tells_its_own_span(story, watch, spans):
    """The first one's trace may not have been kept."""
    watched = watch(story.url)
    for name in ("first", "second"):
        with trace.get_tracer("tests").start_as_current_span(name):
            watched.ask(LOGIN)
    assert [(one.name, len(one.events)) for one in spans.get_finished_spans()] == [
        ("first", 1),
        ("second", 1),
    ]


def test_a_finding_has_one_span_of_its_own_in_an_interval(story, watch, spans):
    (finding,) = watch(story.url).ask(LOGIN)
    moment = [1000.0]
    reporter = SpanReporter(3600, lambda: moment[0])
    ended = trace.get_tracer("tests").start_span("request")
    ended.end()

    def made(changes, span=ended):
        spans.clear()
        reporter.report(span, changes)
        return len(spans.get_finished_spans())

    new, again = Changes(detected=(finding,)), Changes(repeated=(finding,))
    assert made(new, None) == 0
    # The trace of the first one was not kept.
    assert made(again) == 1
    assert made(again) == 0
    moment[0] += 3600
    assert made(again) == 1
    assert made(again) == 0
    assert made(new) == 1
    assert made(again) == 0
    assert made(Changes(resolved=(finding,))) == 0
    assert made(again) == 1


def test_each_inspection_of_ended_spans_makes_no_span(story, watch, spans):
    watched = watch(story.url, PLANWATCH_SAMPLE_INTERVAL=0)
    for _ in range(3):
        request = trace.get_tracer("tests").start_span("request")
        request.end()
        with trace.use_span(request):
            watched.ask(LOGIN)
    names = [one.name for one in spans.get_finished_spans()]
    assert names.count("planwatch.finding") == 1
    assert watched.planwatch.stats()["inspected"] == 3


def test_without_a_span_nothing_is_traced(story, watch, spans):
    assert len(watch(story.url).ask(LOGIN)) == 1
    assert spans.get_finished_spans() == ()


def test_a_trace_that_is_not_kept_gets_no_finding(story, watch, spans, held):
    watched = watch(story.url)
    never = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("tests")
    with never.start_as_current_span("request"):
        run(watched, LOGIN)
    held.set()
    assert len(watched.findings()) == 1
    assert spans.get_finished_spans() == ()


def test_spans_are_let_go_with_their_captures(story, watch, spans):
    watched = watch(story.url)
    with trace.get_tracer("tests").start_as_current_span("request") as request:
        reference = weakref.ref(request)
        watched.ask(LOGIN)
    del request
    spans.clear()
    # The thread's last capture goes with the next one, or when the thread ends.
    run(watched, sa.select(Badge.id))
    assert watched.planwatch.flush(120)
    gc.collect()
    assert reference() is None


def test_an_exporter_that_raises_is_counted_and_stops_nothing(story, watch, spans, held, caplog):
    class Broken(SimpleSpanProcessor):
        def on_end(self, span):
            if span.name == "planwatch.finding":
                raise RuntimeError("a-compared-value")

    told = []

    def keep(sender, inspection):
        told.append(inspection)

    watched = watch(story.url)
    provider = trace.get_tracer_provider()
    processors = provider._active_span_processor._span_processors
    provider.add_span_processor(Broken(InMemorySpanExporter()))
    try:
        with (
            statement_inspected.connected_to(keep, watched.app),
            trace.get_tracer("tests").start_as_current_span("request"),
        ):
            run(watched, LOGIN)
        with statement_inspected.connected_to(keep, watched.app):
            held.set()
            assert len(watched.findings()) == 1
    finally:
        provider._active_span_processor._span_processors = processors
    assert len(told) == 1
    assert watched.planwatch.stats()["errors"] == 1
    assert "a-compared-value" not in caplog.text


# --- processes of their own

PROGRAM = """
import json, os, sys
{before}
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_planwatch import PlanWatch

app = Flask("tests.app")
app.config.update(SQLALCHEMY_DATABASE_URI=os.environ["TEST_URL"], PLANWATCH_SAMPLE_INTERVAL=0)
db, planwatch = SQLAlchemy(app), PlanWatch(app)
with app.app_context():
    text = sa.text("SELECT id FROM \\"user\\" WHERE lower(email) = 'x'")
    db.session.execute(text).all()
    assert planwatch.flush(120)
    loaded = sorted(name for name in sys.modules if name.split(".")[0] == "opentelemetry")
    print(json.dumps([planwatch.stats(), loaded]))
    db.session.remove()
    db.engine.dispose()
"""


def in_a_process(database, before, **environment):
    """Run the program with these lines first; return what it prints, and what it complains of."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(before=textwrap.dedent(before))],
        env={**os.environ, "TEST_URL": database.url, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return *json.loads(done.stdout), done.stderr


MISSING = "sys.modules['opentelemetry'] = None"

#: Put before all others on the path: OpenTelemetry's API as a broken installation of it.
BROKEN = """
import tempfile
folder = tempfile.mkdtemp(prefix="planwatch-")
os.mkdir(f"{folder}/opentelemetry")
with open(f"{folder}/opentelemetry/__init__.py", "w") as file:
    file.write("raise RuntimeError('half an installation')")
sys.path.insert(0, folder)
"""


@pytest.mark.parametrize("before", [MISSING, BROKEN], ids=["missing", "broken"])
def test_all_works_where_opentelemetry_cannot_be_imported(story, before):
    stats, loaded, complaints = in_a_process(story, before)
    assert (stats["inspected"], stats["findings"], stats["errors"]) == (1, 1, 0)
    assert loaded in ([], ["opentelemetry"])
    assert "no index on lower((email)::text)" in complaints
    assert "opentelemetry" not in complaints
    assert "half an installation" not in complaints


def test_traces_are_not_imported_for_an_app_that_does_not_use_them(story):
    _, loaded, _ = in_a_process(story, "")
    assert "opentelemetry.metrics" in loaded
    assert "opentelemetry.trace" not in loaded
    assert not any(name.startswith("opentelemetry.sdk") for name in loaded)

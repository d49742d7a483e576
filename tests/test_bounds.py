"""What is kept has limits, what was used longest ago goes first, and connections are few."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.hostile import SCENARIOS
from benchmarks.memory import STATEMENTS
from flask_planwatch import watched_engine, watcher, worker
from flask_planwatch.capture import (
    connection_state,
    location,
    preparation,
    request_record,
    state_change,
    statistics,
    written,
)
from flask_planwatch.capture.request_record import RequestRecord
from flask_planwatch.capture.statistics import MAX_STATEMENTS
from flask_planwatch.fixes import answers, index_set
from flask_planwatch.indexes import proposal
from flask_planwatch.indexes.proposal import Proposals
from flask_planwatch.inspection import cache, calibration, inspector
from flask_planwatch.inspection.calibration import CostCalibration
from flask_planwatch.plan import constants, predicate
from flask_planwatch.report import log, store, telemetry
from flask_planwatch.report.log import LogReporter
from flask_planwatch.runtime import bounded
from flask_planwatch.server import catalog, refusals, session
from flask_planwatch.statement import fingerprint

from .indexes.data import candidate
from .models import User

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

#: More than the caches of PlanWatch still gain in so few executions, and less than a leak of 50
#: bytes for each of them.
MOST_GROWTH = 1_500_000

#: What all of PlanWatch takes of one process at most, in bytes.
MOST_MEMORY = 64_000_000

#: PlanWatch's own.
OWN = "application_name = 'flask-planwatch'"


def grown(url: str, *options: str) -> int:
    """Return by how much the memory of a process grew, in bytes."""
    command = [sys.executable, "-m", "benchmarks.memory", url, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["growth_bytes"]


def test_memory_does_not_grow_with_executions(database):
    """The full measure, a million executions of 10 000 statements, is in benchmarks/memory.py."""
    options = ("--statements", "200", "--first", "5000", "--executions", "40000")
    assert grown(database.url, *options) < MOST_GROWTH


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_memory_does_not_grow_with_statements_that_are_compiled_each_time(database, driver):
    options = ("--statements", "300", "--first", "2000", "--executions", "6000", "--uncached")
    assert grown(database.url_for(driver), *options) < MOST_GROWTH


def hostile_growth(url: str, *arguments: str) -> int:
    """Return by how many bytes a process grows at most; see benchmarks/hostile.py."""
    command = [sys.executable, "-m", "benchmarks.hostile", *arguments, url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["grown_bytes"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_hard_time_takes_no_more_memory_than_is_stated(database, scenario):
    growth = hostile_growth(database.url, scenario)
    # What the app takes without PlanWatch matters only where both take more.
    if growth >= MOST_MEMORY:
        growth -= hostile_growth(database.url, scenario, "--without")
    assert growth < MOST_MEMORY


def test_the_most_memory_is_in_the_docs():
    text = (ROOT / "docs" / "memory.rst").read_text("utf-8")
    assert f"less than {MOST_MEMORY // 1_000_000} MB" in " ".join(text.split())
    assert sum(BYTES.values()) < MOST_MEMORY


def test_the_benchmark_runs_as_many_statements_as_are_counted():
    assert STATEMENTS == MAX_STATEMENTS


# Connections


def run(watched, count: int = 1) -> None:
    for number in range(count):
        with watched.app.app_context():
            watched.db.session.execute(sa.select(User.id).where(User.id == number)).all()
            watched.db.session.rollback()


def own_connections(watched, database, expected: int) -> None:
    """Wait until PlanWatch has so many connections: the server takes a moment to end one."""
    with watched.app.app_context():
        watched.db.session.remove()
        others = sum(engine.pool.checkedin() for engine in watched.db.engines.values())
    _until(lambda: len(database.clients()) - others == expected)


def test_one_connection_for_an_engine_with_many_threads(fresh_story, watch):
    watched = watch(fresh_story.url)
    go, at_work = threading.Event(), set()

    def ask():
        assert go.wait(240)
        run(watched, 20)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    go.set()
    while any(thread.is_alive() for thread in threads):
        at_work |= fresh_story.clients(OWN)
    for thread in threads:
        thread.join()
    assert watched.planwatch.flush(120)
    own_connections(watched, fresh_story, 1)
    assert len(at_work) == 1


def test_one_connection_for_each_engine(fresh_story, watch):
    watched = watch(fresh_story.url, SQLALCHEMY_BINDS={"other": fresh_story.url})
    with watched.app.app_context():
        for engine in watched.db.engines.values():
            for _ in range(3):
                with engine.connect() as connection:
                    connection.execute(sa.select(User.id).where(User.id == 1)).all()
    assert watched.planwatch.flush(120)
    own_connections(watched, fresh_story, 2)


def test_no_connection_before_the_first_statement(fresh_story, watch):
    watched = watch(fresh_story.url)
    with watched.app.app_context(), watched.db.engine.connect():
        assert len(fresh_story.clients()) == 1
    own_connections(watched, fresh_story, 0)


@pytest.mark.parametrize("enabled", [False, True])
def test_no_connection_where_nothing_is_watched(fresh_story, watch, enabled):
    watched = watch(fresh_story.url, PLANWATCH_ENABLED=enabled)
    with watched.app.app_context():
        watched.planwatch.unwatch(watched.db.engine)
    run(watched, 3)
    assert watched.planwatch.flush(120)
    own_connections(watched, fresh_story, 0)


def test_unwatch_closes_the_connection(fresh_story, watch):
    watched = watch(fresh_story.url)
    run(watched)
    assert watched.planwatch.flush(120)
    own_connections(watched, fresh_story, 1)
    with watched.app.app_context():
        watched.planwatch.unwatch(watched.db.engine)
    own_connections(watched, fresh_story, 0)


def test_an_idle_connection_is_closed(fresh_story, watch, monkeypatch):
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.2)
    watched = watch(fresh_story.url)
    for _ in range(2):
        run(watched)
        assert watched.planwatch.flush(120)
        own_connections(watched, fresh_story, 0)
        _until(lambda: not watched.planwatch.stats()["worker_alive"])


def _until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# The limits

#: The table in docs/memory.rst: what all apps of a process keep at most, in bytes.
BYTES = {
    "Statements that are counted, with their texts": statistics.MAX_SIZE,
    "Sets of parameters of statements that a driver may prepare": preparation.MAX_SETS_SIZE,
    "What was learnt of statements, plans and relations": bounded.MAX_LEARNT_SIZE,
    "Active findings": bounded.MAX_FINDINGS_SIZE,
    "Texts of statements, with what was read of them": fingerprint.MAX_TEXTS_SIZE,
    "Conditions of plans, with what was read of them, in three ways": 3 * predicate.MAX_READ_SIZE,
    "Statements of one request, for the panel": request_record.MAX_SHOWN_SIZE,
}

#: The other table: how many are kept.
LIMITS = {
    "Waiting captures": (worker.QUEUE_LIMIT, worker.QUEUE_LIMIT),
    "Statements that are counted, for each engine": (MAX_STATEMENTS, 2 * MAX_STATEMENTS),
    "Statements that a driver may have prepared, for each connection": (preparation.MAX_COUNTED,),
    "Sets of parameters of a statement that a driver may prepare": (preparation.MAX_SETS,),
    "What the application has set, for each connection": (
        connection_state.MAX_CHANGES,
        state_change.MAX_VALUE,
    ),
    "Statements inspected, with the time": (watched_engine.MAX_FINGERPRINTS,),
    "Answers to findings in a plan": (answers.MAX_ANSWERS,),
    "Statements whose indexes were proposed, and indexes that replace others": (
        proposal.MAX_PROPOSALS,
    ),
    "Statements whose constants are compared, and their expressions": (
        constants.MAX_WITH_CONSTANTS,
        constants.MAX_EXPRESSIONS,
    ),
    "Statements whose time for each unit of cost is known": (calibration.MAX_CALIBRATED,),
    "Active findings": (store.MAX_FINDINGS,),
    "Advice, and findings without any, whose time of logging is known": (
        log.MAX_GROUPS,
        log.MAX_LOGGED,
    ),
    "Findings whose latest span of their own is known": (telemetry.MAX_MADE,),
    "Messages said once": (log.MAX_LOGGED_ONCE,),
    "Statements of one request, for the panel": (request_record.MAX_STATEMENTS_SHOWN,),
    "Statements of one request that were inspected": (request_record.MAX_SAMPLED,),
    "Columns and indexes of relations, for each engine": (catalog.MAX_RELATIONS,),
    "Plans whose relations were read a moment ago, for each engine": (catalog.MAX_REMEMBERED,),
    "Statements that the server refused, for each engine, of some 500 bytes each": (
        refusals.MAX_REFUSALS,
    ),
    "Texts whose values psycopg2 has to write, for each engine, by their hashes": (
        session.MAX_LITERAL_ONLY,
    ),
    "Results of inspections, for each engine": (cache.MAX_RESULTS,),
    "Statements to be copied without their values, in debug mode only, for each engine": (
        inspector.MAX_PREPARABLE,
        written.MAX_WRITTEN,
    ),
    "Files that are or are not the application's own": (location.MAX_FILES,),
}


def stated(header: str) -> dict[str, tuple[float, ...]]:
    """Return the first two columns of a table in the docs, the second one as numbers."""
    text = (ROOT / "docs" / "memory.rst").read_text("utf-8")
    table = text.partition(f"   * - {header}\n")[2].partition("\n\n")[0]
    rows = [row.split("\n     - ") for row in table.split("   * - ")[1:]]
    return {
        " ".join(what.split()): tuple(
            map(float, re.findall(r"[\d.]+", many.replace(" 000", "000")))
        )
        for what, many, _ in rows
    }


def test_the_limits_are_those_in_the_docs():
    assert stated("What\n     - How many") == LIMITS
    in_mb = {what: (size / 1_000_000,) for what, size in BYTES.items()}
    assert stated("What, of one process\n     - MB") == in_mb


# What goes first


def test_statements_of_a_request(monkeypatch):
    monkeypatch.setattr(request_record, "MAX_SAMPLED", 2)
    record = RequestRecord()
    record.sample((1, "a"))
    record.sample((1, "b"))
    assert record.was_sampled((1, "a"))
    record.sample((1, "c"))
    assert [record.was_sampled((1, name)) for name in "abc"] == [True, False, True]


def test_messages_that_are_said_once(monkeypatch, caplog):
    monkeypatch.setattr(log, "MAX_LOGGED_ONCE", 2)
    caplog.set_level(logging.INFO, "flask_planwatch")
    reporter = LogReporter(0)
    for message in ("a", "b", "a", "c", "a", "b"):
        reporter.log_once(logging.INFO, message)
    assert [record.getMessage() for record in caplog.records] == ["a", "b", "c", "b"]


def test_proposals(monkeypatch):
    monkeypatch.setattr(proposal, "MAX_PROPOSALS", 2)
    proposals = Proposals()
    for origin in ("a", "b", "a", "c"):
        proposals.keep(origin, {candidate("state", predicate=origin): "ix"})
    assert {index.predicate for index in proposals.others("x")} == {"a", "c"}


def test_calibration(monkeypatch):
    monkeypatch.setattr(calibration, "MAX_CALIBRATED", 2)
    monkeypatch.setattr(calibration, "USUAL_WEIGHT", 0)
    known = CostCalibration()
    for name, ms in (("a", 1.0), ("b", 100.0), ("a", 1.0), ("c", 3.0)):
        known.record(name, ms)
    assert known.normal("x") == 2.0


def test_answers(story, watch, monkeypatch):
    """What was tried for a statement is kept as long as it is needed."""
    watched, tried = watch(story.url, PLANWATCH_VERIFY="build"), []
    columns = {"a": User.first, "b": User.last, "c": User.state}
    advise = index_set.IndexSet.advise

    def advise_and_tell(self, hits):
        tried.append(hits[0].suspicion.subject)
        return advise(self, hits)

    def ask(names: str) -> None:
        for name in names:
            watched.ask(sa.select(User.id).where(sa.func.lower(columns[name]) == "x"))

    # What is proposed for the others bears on the answer, and is known from here on.
    ask("abc")
    monkeypatch.setattr(index_set.IndexSet, "advise", advise_and_tell)
    (engine,) = watched.app.extensions[watcher.EXTENSION]._engines.values()
    engine._inspector.answers._known.clear()
    monkeypatch.setattr(engine._inspector.answers._known, "_count", 2)
    ask("abacab")
    first, last, state = "lower(first)", "lower(last)", "lower(state)"
    assert tried == [first, last, state, last]


def test_fingerprints_of_driver_level_statements(story, watch, monkeypatch):
    monkeypatch.setattr(watched_engine, "MAX_FINGERPRINTS", 2)
    watched = watch(story.url, PLANWATCH_SAMPLE_INTERVAL=1000)

    def ask(table: str, number: int) -> None:
        watched.ask(sa.text(f"SELECT 1 FROM {table} LIMIT {number}"))

    ask("badge", 1)
    ask("roles_users", 1)
    ask("badge", 2)
    assert watched.planwatch.stats()["skipped"] == {"recently-inspected": 1}
    ask('"user"', 1)
    ask("badge", 3)
    assert watched.planwatch.stats()["inspected"] == 3
    ask("roles_users", 2)
    assert watched.planwatch.stats()["inspected"] == 4


def test_failed_statements_are_forgotten_once_they_are_done(story, watch):
    watched = watch(story.url)
    with watched.app.app_context():
        session = watched.db.session
        for number in range(20):
            session.execute(sa.text("SET LOCAL statement_timeout = 5"))
            with pytest.raises(sa.exc.OperationalError):
                session.execute(sa.text(f"SELECT pg_sleep(1) AS s{number} FROM badge"))
            session.rollback()
            assert watched.planwatch.flush(120)
    (engine,) = watched.app.extensions[watcher.EXTENSION]._engines.values()
    assert len(engine._kept) <= 1

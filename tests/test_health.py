"""PlanWatch's own counters: every execution that was taken to be inspected is accounted for."""

from __future__ import annotations

import json
import os

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import SkipReason

from .models import Badge, User

pytestmark = [pytest.mark.slow, pytest.mark.versions]

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")
BY_ID = sa.select(Badge.id).where(Badge.id == 1)


def run(watched, *statements):
    """Run statements in one transaction that is rolled back; one may fail."""
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        for statement in statements:
            try:
                connection.execute(
                    statement if not isinstance(statement, str) else sa.text(statement)
                )
            except sa.exc.DBAPIError:
                connection.rollback()


def whole_skips(stats):
    """Return how many captures were skipped, not only one of their further plans."""
    return sum(n for reason, n in stats["skipped"].items() if not SkipReason(reason).is_partial)


def test_what_was_sampled_is_inspected_skipped_or_waiting(story, watch, held, limit_queue):
    limit_queue(4)
    # The budget for EXPLAIN ANALYZE is one in six, so that one further plan is missing.
    watched = watch(story.url, PLANWATCH_ANALYZE=True, PLANWATCH_INSPECTIONS_PER_MINUTE=6)
    joined = sa.select(Badge.owner, User.email).join(User, User.id == Badge.id)
    run(watched, joined, joined.limit(1))
    run(watched, "CREATE TEMPORARY TABLE own (a int)", "SELECT a FROM own", LOGIN)
    run(watched, BY_ID, BY_ID, BY_ID, BY_ID)
    stats = watched.planwatch.stats()
    assert stats["captured"] == 8
    assert (stats["sampled"], stats["waiting"]) == (4, 4), stats
    assert (stats["inspected"], stats["skipped"]) == (0, {})
    # What is dropped returns its share of the budget.
    assert (stats["dropped"], stats["over_budget"]) == (4, 0)
    assert stats["worker_alive"]
    held.set()
    assert watched.planwatch.flush(120)
    stats = watched.planwatch.stats()
    assert stats["skipped"] == {"not-visible": 1, "not-analysed": 1}
    assert (stats["sampled"], stats["inspected"], stats["waiting"]) == (4, 3, 0)
    assert stats["sampled"] == stats["inspected"] + whole_skips(stats)
    run(watched, BY_ID, BY_ID, BY_ID, BY_ID)
    assert watched.planwatch.flush(120)
    stats = watched.planwatch.stats()
    assert stats["captured"] == 12
    assert stats["captured"] == stats["sampled"] + stats["dropped"] + stats["over_budget"]
    assert stats["over_budget"] == 2
    assert stats["sampled"] == stats["inspected"] + whole_skips(stats) == 6


def test_in_an_outage_one_execution_is_taken_for_all(story, watch, held):
    watched = watch(story.url)
    slow = "SELECT pg_sleep(1), id FROM badge"
    for _ in range(3):
        run(watched, "SET LOCAL statement_timeout = 5", slow)
    stats = watched.planwatch.stats()
    assert (stats["captured"], stats["sampled"], stats["waiting"]) == (3, 1, 1)
    held.set()
    assert watched.planwatch.flush(120)
    stats = watched.planwatch.stats()
    assert stats["sampled"] == stats["inspected"] + whole_skips(stats) == 1


def test_a_capture_that_ends_in_an_error_is_a_skip(story, watch, monkeypatch):
    """Not even the Skip can be made: the statement has no fingerprint."""

    def broken(*_):
        raise RecursionError

    watched = watch(story.url)
    with monkeypatch.context() as patch:
        patch.setattr("flask_planwatch.statement.fingerprint.fingerprint", broken)
        run(watched, LOGIN)
        assert watched.planwatch.flush(120)
    run(watched, LOGIN)
    assert len(watched.findings()) == 1
    stats = watched.planwatch.stats()
    assert stats["skipped"] == {"internal-error": 1}
    assert (stats["sampled"], stats["inspected"]) == (2, 1)


@pytest.mark.parametrize("reason", SkipReason)
def test_only_two_reasons_are_of_a_further_plan(reason):
    assert reason.is_partial == (reason in {"generic-plan-unknown", "not-analysed"})


def test_the_counters_are_those_of_the_process(story, watch, held, limit_queue):
    """A forked child starts all of them afresh, also the count of what was dropped."""
    limit_queue(1)
    watched = watch(story.url)
    run(watched, BY_ID, BY_ID)
    before = watched.planwatch.stats()
    assert (before["sampled"], before["dropped"]) == (1, 1)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, json.dumps(watched.planwatch.stats()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        child = json.loads(pipe.read())
    os.waitpid(pid, 0)
    held.set()
    assert child.keys() == before.keys()
    assert not any(child.values()), child

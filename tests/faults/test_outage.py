"""The server dies and comes back while the app is under load."""

from __future__ import annotations

import os
import signal

import pytest
import sqlalchemy as sa

from ..models import Badge
from .comparing import LOGIN, Answer, accounts, compare
from .own_server import own_server

pytestmark = [pytest.mark.slow, pytest.mark.versions]

#: A statement that lasts until the server ends it.
ENDLESS = "SELECT pg_sleep(600)"

SLEEPERS = "count(*) = 4 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


#: What becomes of statements that wait meanwhile: PlanWatch opens no connection as long as the
#: application has none left.
LOST = {"connection-lost", "server-unavailable", "unwatched"}


@pytest.fixture(scope="module")
def server():
    with own_server() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let PlanWatch ask again soon whether the server is back."""
    monkeypatch.setattr("flask_planwatch.worker.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("flask_planwatch.worker.MAX_PAUSE", 0.2)


#: With it, an app of today goes on after a restart without a failed request.
PRE_PING = {"pool_pre_ping": True}


def test_a_server_that_is_killed_and_started_again(server, watch, driver):
    def scenario(visits):
        with visits.served() as load:
            before = load(LOGIN, times=16)
            caught = load.start(ENDLESS, times=4)
            server.wait_until(SLEEPERS)
            server.kill()
            failed = [one.result(60) for one in caught]
            during = load(LOGIN, times=16)
            server.start()
            after = load(LOGIN, times=16)
        assert before == after == {Answer(200, "[]"): 16}
        assert {one.status for one in (*failed, *during)} == {500}
        return before, failed, during, after

    visits = compare(watch, server.url(driver), scenario, SQLALCHEMY_ENGINE_OPTIONS=PRE_PING)
    stats = accounts(visits, stood_for=3)
    assert stats["captured"] == 36
    assert set(stats["skipped"]) <= LOST
    rules = {finding.rule for finding in visits.watched.planwatch.findings()}
    assert rules == {"functional-predicate", "statement-failed"}


def test_a_backend_that_crashes(server, watch, driver):
    """The server ends all others as well, and starts again by itself."""

    def scenario(visits):
        with visits.served() as load:
            before = load(LOGIN, times=16)
            caught = load.start(ENDLESS, times=4)
            server.wait_until(SLEEPERS)
            victim = server.scalar("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            os.kill(victim, signal.SIGKILL)
            failed = [one.result(60) for one in caught]
            server.wait_until("true")
            after = load(LOGIN, times=16)
        assert before == after == {Answer(200, "[]"): 16}
        assert {one.status for one in failed} == {500}
        return before, sorted(failed), after

    visits = compare(watch, server.url(driver), scenario, SQLALCHEMY_ENGINE_OPTIONS=PRE_PING)
    stats = accounts(visits, stood_for=3)
    assert stats["captured"] == 36
    assert set(stats["skipped"]) <= LOST


def test_a_backend_of_planwatch_that_hangs(server, watch, driver, processor_time, limit_queue):
    """Neither a timeout of the server nor an error ends its wait: the app goes on without it."""
    processor_time.count_waiting()
    limit_queue(4)
    others = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND datname = 'postgres' AND pid NOT IN"
    )

    def scenario(visits):
        hung = []
        mine = visits("SELECT pg_backend_pid()").body.strip("[]")
        visits(LOGIN)
        if visits.watched.planwatch.stats()["captured"]:
            assert visits.watched.planwatch.flush(120)
            hung = [server.scalar(f"{others} ({mine}, pg_backend_pid())")]
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        answers = [visits(LOGIN, sa.select(Badge.id).where(Badge.id == 7)) for _ in range(8)]
        for pid in hung:
            assert visits.watched.planwatch.stats()["dropped"] > 0
            os.kill(pid, signal.SIGCONT)
        return answers

    stats = accounts(compare(watch, server.url(driver), scenario))
    assert (stats["captured"], stats["skipped"]) == (18, {})

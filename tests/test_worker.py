"""The worker: order, second tries, fork, and the end of the interpreter."""

from __future__ import annotations

import ctypes
import gc
import json
import operator
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import worker as worker_module
from flask_planwatch.runtime.weak import members
from flask_planwatch.worker import _THREAD, Ticket, Worker

from .models import User

pytestmark = pytest.mark.versions


@pytest.fixture
def worker():
    made = Worker(close_unused=lambda since: None, after_fork=lambda: None)
    yield made
    assert made.flush(30)


@pytest.fixture
def no_thread():
    """Let the process have no thread of PlanWatch's when the test begins."""
    deadline = time.monotonic() + 30
    while _THREAD.alive and time.monotonic() < deadline:
        _THREAD._alarm.put(None)
        time.sleep(0.05)
    assert not _THREAD.alive


def test_jobs_run_in_order_on_one_thread(worker):
    ran = []

    def job(number):
        def run(ticket, last_try):
            ran.append((number, threading.get_ident()))
            return True

        return run

    for number in range(20):
        assert worker.submit(job(number)) is not None
    assert worker.flush(120)
    assert [number for number, _ in ran] == list(range(20))
    (ident,) = {ident for _, ident in ran}
    assert ident != threading.get_ident()


def test_a_second_try_and_no_third(worker, monkeypatch):
    monkeypatch.setattr(worker_module, "RETRY_SECONDS", 0.1)
    tries = []

    def job(ticket, last_try):
        tries.append(last_try)
        return last_try

    ticket = worker.submit(job)
    assert worker.flush(120)
    assert tries == [False, True]
    assert ticket.done


@pytest.mark.slow
def test_other_jobs_do_not_wait_for_a_second_try(worker, monkeypatch):
    monkeypatch.setattr(worker_module, "RETRY_SECONDS", 3)
    ran = []
    worker.submit(lambda ticket, last_try: ran.append("first") or last_try)
    second = worker.submit(lambda ticket, last_try: ran.append("second") or True)
    assert worker.wait([second], 2)
    assert ran == ["first", "second"]
    assert worker.flush(20)
    assert ran == ["first", "second", "first"]


def test_a_second_try_does_not_wait_for_an_empty_queue(worker, monkeypatch):
    monkeypatch.setattr(worker_module, "RETRY_SECONDS", 0.05)
    ran = []
    worker.submit(lambda ticket, last_try: ran.append("first") or last_try)
    for _ in range(20):
        worker.submit(lambda ticket, last_try: time.sleep(0.02) or ran.append("other") or True)
    assert worker.flush(20)
    assert ran.index("first", 1) < len(ran) - 1


def test_a_job_that_ends_the_thread_ends_nothing_else(worker):
    def ends(ticket, last_try):
        raise SystemExit

    ticket = worker.submit(ends)
    assert worker.flush(120)
    assert ticket.done
    done = worker.submit(lambda ticket, last_try: True)
    assert worker.flush(120)
    assert done.done


def test_a_job_is_done_though_nobody_waits_for_it(worker):
    """The thread looks by itself, at once when it starts and after each nap."""
    for _ in range(2):
        done = threading.Event()
        worker.submit(lambda ticket, last_try, done=done: done.set() or True)
        assert done.wait(120)


class Alarm(queue.SimpleQueue):
    """An alarm that tells when the thread has lain down with nothing left to wake it up."""

    def __init__(self):
        super().__init__()
        self.napping = threading.Event()

    def get(self, **options):
        if self.empty():
            self.napping.set()
        return super().get(**options)


@pytest.fixture
def nap(monkeypatch):
    """Return a function that lets PlanWatch's thread start, and nap until it is woken up."""
    alarms = []

    def nap(worker):
        assert worker.wait([worker.submit(lambda ticket, last_try: True)], 60)
        earlier = _THREAD._alarm
        alarms.append(Alarm())
        monkeypatch.setattr(_THREAD, "_alarm", alarms[-1])
        earlier.put(None)
        assert alarms[-1].napping.wait(240)

    yield nap
    monkeypatch.undo()
    for alarm in alarms:
        alarm.put(None)


def test_the_thread_is_woken_up_by_who_waits_only(worker, nap, monkeypatch):
    monkeypatch.setattr(worker_module, "POLL_SECONDS", 600)
    nap(worker)
    ticket = worker.submit(lambda ticket, last_try: True)
    time.sleep(0.05)
    assert not ticket.done
    assert worker.waiting == 1
    assert worker.flush(120)
    assert ticket.done


def test_a_queue_that_fills_up_wakes_the_thread_up(worker, nap, monkeypatch):
    monkeypatch.setattr(worker_module, "POLL_SECONDS", 600)
    nap(worker)
    # What is kept for another try leaves less room.
    others = {Ticket() for _ in range(60)}
    _THREAD._taken |= others
    done = threading.Event()
    for _ in range(20):
        worker.submit(lambda ticket, last_try: True)
    assert worker.submit(lambda ticket, last_try: done.set() or True)
    assert done.wait(120)
    _THREAD._taken -= others


def test_nobody_is_woken_up_where_there_is_nothing_to_wait_for(worker, no_thread, monkeypatch):
    """Without a thread, nobody would take the alarms away."""
    done = Ticket()
    done.done = True
    alarms = []
    monkeypatch.setattr(_THREAD, "_alarm", SimpleNamespace(put=alarms.append))
    assert worker.wait([done], 1)
    assert worker.wait([], 1)
    assert worker.flush(1)
    assert alarms == []


@pytest.mark.slow
def test_a_job_that_was_accepted_keeps_what_it_needs(nap, monkeypatch):
    monkeypatch.setattr(worker_module, "POLL_SECONDS", 0.2)
    worker = Worker(close_unused=lambda since: None, after_fork=lambda: None)
    nap(worker)
    done = threading.Event()
    worker.submit(lambda ticket, last_try, worker=worker: done.set() or worker.alive)
    gone = weakref.ref(worker)
    del worker
    gc.collect()
    assert done.wait(120)
    while gone() is not None:
        gc.collect()
        time.sleep(0.01)


def test_a_job_that_comes_as_the_thread_ends_is_done_by_another_one(worker, no_thread, monkeypatch):
    class EndOfThread(deque):
        def append(self, ticket):
            _THREAD._thread = None
            super().append(ticket)

    monkeypatch.setattr(_THREAD, "_others", EndOfThread())
    _THREAD._thread = threading.Thread()
    ticket = worker.submit(lambda ticket, last_try: True)
    assert worker.wait([ticket], 5)


def test_a_thread_does_not_end_beside_a_job(worker, no_thread):
    thread = _THREAD._thread = threading.Thread()
    worker.submit(lambda ticket, last_try: True)
    assert not _THREAD._retire()
    assert _THREAD._thread is thread
    _THREAD._others.clear()
    assert not _THREAD._first
    assert _THREAD._retire()
    assert _THREAD._thread is None


LOCKS = ["sampler._inspections._lock", "store._active._bound.lock", "_mappings._lock"]


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_that_is_held_at_a_fork_hangs_no_child(story, watch, lock):
    watched = watch(story.url)
    watched.ask(sa.select(User.id).where(func.lower(User.email) == "x"))
    watcher = watched.app.extensions["planwatch"]
    reader, writer = os.pipe()
    with operator.attrgetter(lock)(watcher):
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(30)
                with watched.app.app_context():
                    watched.db.engine.dispose(close=False)
                found = watched.ask(sa.select(User.id).where(func.upper(User.email) == "X"))
                os.write(writer, str(len(found)).encode())
            finally:
                os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    assert answer == "2"


def test_flush_waits_for_what_was_accepted_before_only(worker):
    blocked = threading.Event()
    worker.submit(lambda ticket, last_try: blocked.wait(5) or True)
    assert not worker.flush(0.05)
    blocked.set()
    assert worker.flush(120)


def test_flush_on_the_thread_itself_does_not_deadlock(worker):
    answers = []
    worker.submit(lambda ticket, last_try: answers.append(worker.flush(5)) or True)
    assert worker.flush(120)
    assert answers == [False]


def test_nothing_is_accepted_after_the_end(worker, monkeypatch):
    monkeypatch.setattr(_THREAD, "_closed", True)
    assert worker.submit(lambda ticket, last_try: True) is None
    assert worker.dropped == 1


def test_a_forked_child_starts_afresh(story, watch):
    """Parent and child inspect on connections of their own, and the parent's stays whole."""
    watched = watch(story.url)
    statement = sa.select(User.id).where(func.lower(User.email) == "x")
    watched.ask(statement)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with watched.app.app_context():
                watched.db.engine.dispose(close=False)
            watched.planwatch.clear()
            findings = watched.ask(statement)
            os.write(writer, json.dumps([len(findings), watched.planwatch.stats()]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found, stats = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert found == 1
    assert stats["skipped"] == {}
    assert stats["captured"] == stats["inspected"] == 1, "the counters are those of the process"
    watched.planwatch.clear()
    assert len(watched.ask(statement)) == 1
    assert watched.planwatch.stats()["skipped"] == {}


def test_an_engine_disposed_of_in_a_child_leaves_the_parents_connection(story, watch, monkeypatch):
    """The child is forked without Python's hooks, as by uWSGI, or the app's own hook came first."""
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 60)
    watched = watch(story.url)
    statement = sa.select(User.id).where(func.lower(User.email) == "x")

    def backend():
        watched.ask(statement)
        (engine,) = watched.app.extensions["planwatch"]._engines.values()
        return engine.session._connection.driver_connection.info.backend_pid

    before = backend()
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        try:
            with watched.app.app_context():
                watched.db.engine.dispose(close=False)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert backend() == before


@pytest.mark.slow
def test_a_command_reports_before_the_interpreter_ends(story):
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "tests.command_app", "report"],
        env={**os.environ, "COMMAND_DATABASE_URL": story.url},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert ': Seq Scan on "user" (100,000 rows' in done.stderr
    assert "command_app.py" in done.stderr


def test_a_ticket_that_is_done_keeps_nothing_of_its_capture(worker):
    ticket = worker.submit(lambda ticket, last_try: True)
    assert worker.flush(120)
    assert (ticket.done, ticket.job) == (True, None)


def test_the_members_of_a_weak_set_that_another_thread_adds_to():
    """The set would say that it has changed, and PlanWatch's thread would end."""
    interval, ends = sys.getswitchinterval(), threading.Event()
    first = threading.Event()
    alive, kept = weakref.WeakSet([first]), deque(maxlen=2000)

    def add():
        while not ends.is_set():
            kept.append(threading.Event())
            alive.add(kept[-1])

    adding = threading.Thread(target=add)
    sys.setswitchinterval(1e-6)
    try:
        adding.start()
        refused = 0
        while not refused:
            assert first in members(alive)
            try:
                list(alive)
            except RuntimeError:
                refused += 1
    finally:
        ends.set()
        sys.setswitchinterval(interval)
        adding.join()

"""Hooks swallow what they raise themselves, and nothing that was meant for the application."""

from __future__ import annotations

import ctypes
import queue
import signal
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from flask_planwatch import worker
from flask_planwatch.capture import hooks, statistics

from ..conditions import becomes

pytestmark = [pytest.mark.slow, pytest.mark.versions]


class OutOfTime(Exception):
    """What a watchdog of the application's raises."""


@pytest.fixture
def watched(story, watch):
    watched = watch(story.url)
    with watched.app.app_context():
        watched.db.session.execute(sa.text("SELECT 1")).all()
        watched.db.session.rollback()
    return watched


def run(watched, parameter=1):
    with watched.app.app_context():
        try:
            return watched.db.session.execute(sa.text("SELECT :a"), {"a": parameter}).scalar()
        finally:
            watched.db.session.rollback()


def in_a_hook(monkeypatch, happens):
    """Let something happen while a hook runs."""
    original = hooks.Watch._statistics_of

    def look(self, *arguments):
        happens()
        return original(self, *arguments)

    monkeypatch.setattr(hooks.Watch, "_statistics_of", look)


@pytest.mark.parametrize("kind", [OutOfTime, TimeoutError, Exception, ValueError])
@pytest.mark.parametrize("how", ["function", "method", "variadic", "forgets", "walks", "object"])
def test_a_signal_handler_may_end_a_statement(watched, monkeypatch, kind, how):
    class Handler:
        def handle(self, number, frame):
            raise kind("the time is up")

    def function(number, frame):
        Handler().handle(number, frame)

    def variadic(*arguments):
        raise kind("the time is up")

    def forgets(number, frame):
        del frame
        raise kind("the time is up")

    def walks(number, frame):
        while frame is not None:
            frame = frame.f_back
        raise kind("the time is up")

    class Called:
        def __call__(self, number, frame):
            del frame
            raise kind("the time is up")

    handlers = {
        "function": function,
        "method": Handler().handle,
        "variadic": variadic,
        "forgets": partial(forgets),
        "walks": walks,
        "object": Called(),
    }
    earlier = signal.signal(signal.SIGUSR1, handlers[how])
    in_a_hook(monkeypatch, lambda: signal.raise_signal(signal.SIGUSR1))
    try:
        with pytest.raises(kind, match="the time is up"):
            run(watched)
    finally:
        signal.signal(signal.SIGUSR1, earlier)
    assert watched.planwatch.stats()["errors"] == 0
    monkeypatch.undo()
    assert run(watched, 7) == 7


@pytest.mark.parametrize(
    "kind",
    [OutOfTime, TimeoutError, Exception, KeyboardInterrupt, queue.Empty, sa.exc.TimeoutError],
)
def test_another_thread_may_raise_an_exception_here(watched, monkeypatch, kind):
    thread = ctypes.c_ulong(threading.get_ident())
    # Called by C, so that the exception arrives in the hook's own frame.
    raises = partial(
        ctypes.pythonapi.PyThreadState_SetAsyncExc, thread, ctypes.py_object(kind), None
    )
    (engine,) = watched.app.extensions["planwatch"]._engines.values()
    monkeypatch.setattr(
        engine.watch, "_statistics", SimpleNamespace(plain=SimpleNamespace(get=raises))
    )
    with pytest.raises(kind):
        run(watched)
    assert watched.planwatch.stats()["errors"] == 0


def test_a_debugger_may_stop_in_a_hook(watched, monkeypatch):
    class Quit(Exception):
        pass

    def trace(frame, event, argument):
        if frame.f_code is hooks.Watch._after_cursor_execute.__code__:

            def line(frame, event, argument):
                raise Quit

            return line
        return None

    earlier = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(Quit):
            run(watched)
    finally:
        sys.settrace(earlier)
    assert watched.planwatch.stats()["errors"] == 0


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, AttributeError, OutOfTime])
def test_an_error_of_the_hooks_own_is_counted_only(watched, monkeypatch, kind):
    def fails(self, *arguments):
        raise kind("broken")

    # Whatever PlanWatch calls, such as the class of a parameter, may raise anything.
    monkeypatch.setattr(hooks.Watch, "_statistics_of", fails)
    assert run(watched, 5) == 5
    assert watched.planwatch.stats()["errors"] == 1


def test_a_hook_that_is_broken_is_counted_only(watched, monkeypatch):
    monkeypatch.delattr(statistics, "may_change_state")
    assert run(watched, 6) == 6
    assert watched.planwatch.stats()["errors"] == 1


def test_a_handler_may_raise_while_the_thread_is_started(watched, monkeypatch):
    """It reaches the application, and there are no two threads after it."""
    assert watched.planwatch.flush(120)
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.1)
    assert becomes(lambda: worker._THREAD._alarm.put(None) or not worker._THREAD.alive)
    original = threading.Thread.start

    def start(thread):
        original(thread)
        signal.raise_signal(signal.SIGUSR1)

    def handler(number, frame):
        raise RuntimeError("the time is up")

    earlier = signal.signal(signal.SIGUSR1, handler)
    monkeypatch.setattr(threading.Thread, "start", start)
    try:
        with pytest.raises(RuntimeError, match="the time is up"):
            run(watched)
    finally:
        signal.signal(signal.SIGUSR1, earlier)
    monkeypatch.undo()
    assert run(watched, 8) == 8
    assert watched.planwatch.flush(120)
    own = [one for one in threading.enumerate() if one.name == "flask-planwatch"]
    assert len(own) == 1

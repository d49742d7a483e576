"""The end of a process: a developer sees the finding, or that a statement was not inspected."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from flask_planwatch import worker as worker_module
from flask_planwatch.worker import _THREAD, Worker, _at_exit

pytestmark = pytest.mark.versions

#: An application of a factory, which nothing refers to at the end.
SCRIPT = """
import gc, threading, time
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_planwatch import PlanWatch, worker
from flask_planwatch.watcher import Watcher
from tests.models import User, metadata

begin = Watcher.begin

def begin_at_the_end(watcher):
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    time.sleep(0.5)
    gc.collect()
    begin(watcher)

def run(url, patience, is_held=False, end=None, is_kept=False, **config):
    worker.EXIT_PATIENCE, worker.DEVELOPER_PATIENCE = patience
    if is_held:
        Watcher.begin = lambda watcher: threading.Event().wait(60)
    elif end is None:
        Watcher.begin = begin_at_the_end
    app = Flask("script")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, **config)
    db = SQLAlchemy(app, metadata=metadata)
    PlanWatch(app)
    with app.app_context():
        db.session.execute(sa.select(User.id).where(sa.func.lower(User.email) == "x")).all()
        if end == "dispose":
            db.session.remove()
            db.engine.dispose()
    return app if is_kept else None

kept = run({arguments})
"""

#: What a developer reads, but for the number and the reason.
NEXT = "Call planwatch.flush(10) before that to wait for the inspection.\n"


@pytest.fixture
def printed(story, tmp_path):
    """Return what runs the script, and returns what it wrote to standard error."""

    def run(*patience, **options):
        given = {"url": story.url, "patience": patience, **options}
        script = tmp_path / "script.py"
        script.write_text(
            SCRIPT.format(arguments=", ".join(f"{key}={given[key]!r}" for key in given))
        )
        path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


def test_a_developer_sees_the_finding_of_a_short_script(printed):
    errors = printed(0, 60, DEBUG=True)
    assert errors.startswith("PlanWatch watches 1 engine: ")
    assert ': Seq Scan on "user" (' in errors
    assert "did not inspect" not in errors


def test_a_developer_is_told_of_a_statement_that_takes_too_long(printed):
    assert printed(0, 0, is_held=True, DEBUG=True) == (
        f"PlanWatch did not inspect 1 statement: the process ended first. {NEXT}"
    )


def test_a_developer_is_told_of_a_statement_whose_engine_was_disposed_of(printed):
    errors = printed(60, 60, end="dispose", is_kept=True, DEBUG=True)
    assert errors.endswith(
        f"PlanWatch did not inspect 1 statement: the engine was disposed of first. {NEXT}"
    )


@pytest.mark.parametrize("config", [{}, {"TESTING": True, "DEBUG": True}])
def test_production_and_tests_neither_wait_nor_tell(printed, config):
    assert printed(0, 60, is_held=True, **config) == ""


@pytest.fixture
def end(monkeypatch):
    """Return a function that does what the end of the interpreter does to jobs of a worker.

    It returns how many were not done, and how long it took.
    """
    monkeypatch.setattr(_THREAD, "close", lambda: None)
    monkeypatch.setattr(worker_module, "EXIT_PATIENCE", 0.05)
    monkeypatch.setattr(worker_module, "DEVELOPER_PATIENCE", 60.0)
    free = threading.Event()

    def run(*jobs, is_patient):
        told = []
        worker = Worker(
            close_unused=lambda since: None,
            after_fork=lambda: None,
            at_exit=told.append,
            is_patient=lambda: is_patient,
        )
        free.clear()
        for job in jobs:
            worker.submit(lambda ticket, last_try, job=job: job(free) or True)
        began = time.monotonic()
        _at_exit()
        took = time.monotonic() - began
        free.set()
        assert worker.flush(120)
        (left,) = told
        return left, took

    yield run
    free.set()


def hold(free):
    free.wait(60)


def take_a_second(free):
    free.wait(1)


def test_only_a_developer_waits_for_what_takes_a_second(end):
    assert end(take_a_second, is_patient=True)[0] == 0
    left, took = end(take_a_second, take_a_second, is_patient=False)
    assert left == 2
    assert took < 1


def test_nobody_waits_if_nothing_does(end):
    left, took = end(is_patient=True)
    assert left == 0
    assert took < 0.05


def test_who_interrupts_the_end_does_not_wait_and_is_told(end, monkeypatch):
    def interrupted(tickets, timeout):
        raise KeyboardInterrupt

    wait = _THREAD.wait
    with monkeypatch.context() as during:
        during.setattr(_THREAD, "wait", interrupted)
        during.setattr(Worker, "flush", lambda worker, timeout: True)
        assert end(hold, is_patient=True)[0] == 1
    assert wait(_THREAD.accepted(), 60)

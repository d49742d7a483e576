"""Fixtures: real servers, a database of 100 000 users, and apps that PlanWatch watches."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from hypothesis import HealthCheck, settings

from flask_planwatch import PlanWatch, worker
from flask_planwatch.capture.sampling import renew_budgets
from flask_planwatch.inspection.inspector import Inspector
from flask_planwatch.report import panel

from . import databases, models, servers, stories
from .conditions import PATIENCE
from .databases import Database, make_database
from .models import metadata
from .processor_time import ProcessorTime, counted

# A busy machine takes any time for an example.
settings.register_profile(
    "steady",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    """Start, where several processes run the tests, the first server for all of them."""
    if config.getoption("numprocesses", None):
        servers.start_for_all()


def pytest_unconfigure() -> None:
    """Drop the templates once all processes have ended."""
    databases.drop_templates()


def pytest_xdist_auto_num_workers() -> int:
    """Two processes more than processors: each waits for servers, other programs and clocks."""
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among the tests, which live as long as the process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what UTF-8 cannot hold: a process could not tell the first one what was printed."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def patient_panel() -> Iterator[None]:
    """Let the panel wait longer: what it shows must not depend on how busy this computer is."""
    # Not the test's own, which would be undone later than what was made after this.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel, "PATIENCE", PATIENCE)
        yield


@pytest.fixture(autouse=True)
def own_budget() -> None:
    """Let each test spend a minute's inspections: all apps of a process share them."""
    renew_budgets()


@pytest.fixture(scope="session", params=[servers.FIRST, servers.HYPOPG])
def any_server(request: pytest.FixtureRequest) -> servers.Server:
    """Each server in turn."""
    return servers.find_server(request.param)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> servers.Server:
    """The first server."""
    return servers.find_server(servers.FIRST)


@pytest.fixture(scope="session")
def hypopg_server(request: pytest.FixtureRequest) -> servers.Server:
    """The server with HypoPG."""
    return servers.find_server(servers.HYPOPG)


@pytest.fixture(scope="session")
def templates() -> Callable[[servers.Server], str]:
    """Make, once on each server, the database that the tests copy: its data are in models.py."""
    return lambda server: databases.template(server, "story", models.fill)


@pytest.fixture(scope="session")
def stories_templates() -> Callable[[servers.Server], str]:
    """Make, once on each server, the database of stories 2 to 5: its data are in stories.py."""
    return lambda server: databases.template(server, "stories", stories.fill)


@pytest.fixture
def database(server: servers.Server) -> Iterator[Database]:
    """An empty database on the first server."""
    yield from make_database(server, None)


@pytest.fixture(scope="module")
def story(server: servers.Server, templates: Callable[..., str]) -> Iterator[Database]:
    """A copy of the story's database on the first server, for the tests of one module."""
    yield from make_database(server, templates(server))


@pytest.fixture
def fresh_story(server: servers.Server, templates: Callable[..., str]) -> Iterator[Database]:
    """A copy of the story's database on the first server, for a test that changes it."""
    yield from make_database(server, templates(server))


@pytest.fixture(scope="module")
def each_story(any_server: servers.Server, templates: Callable[..., str]) -> Iterator[Database]:
    """A copy of the story's database on each server in turn, for the tests of one module."""
    yield from make_database(any_server, templates(any_server))


@pytest.fixture
def any_story(any_server: servers.Server, templates: Callable[..., str]) -> Iterator[Database]:
    """A copy of the story's database on each server in turn, for a test that changes it."""
    yield from make_database(any_server, templates(any_server))


def stories_database(server: servers.Server, template: str) -> Iterator[Database]:
    """Make a copy of the database of stories 2 to 5, and drop it."""
    for database in make_database(server, template):
        stories.age(database.url)
        yield database


@pytest.fixture(scope="module")
def each_stories(
    any_server: servers.Server, stories_templates: Callable[..., str]
) -> Iterator[Database]:
    """A copy of the database of stories 2 to 5 on each server in turn, for one module."""
    yield from stories_database(any_server, stories_templates(any_server))


@pytest.fixture
def fresh_stories(
    any_server: servers.Server, stories_templates: Callable[..., str]
) -> Iterator[Database]:
    """A copy of that database on each server in turn, for a test that changes it."""
    yield from stories_database(any_server, stories_templates(any_server))


@dataclass
class Watched:
    """An app with PlanWatch and Flask-SQLAlchemy, inside its app context."""

    app: Flask
    db: SQLAlchemy
    planwatch: PlanWatch

    def findings(self) -> list:
        # One that tries indexes by building them may take minutes on a busy machine.
        assert self.planwatch.flush(600), self.planwatch.stats()
        return list(self.planwatch.findings())

    def ask(self, statement: sa.sql.expression.Executable, **parameters: object) -> list:
        """Run a statement and return the findings once it was inspected."""
        with self.app.app_context():
            self.db.session.execute(statement, parameters or None).all()
            self.db.session.rollback()
        return self.findings()


@pytest.fixture
def processor_time() -> Iterator[ProcessorTime]:
    """Have statements take as long as they compute, however busy the machine is."""
    # Not the test's own patches, which must be undone before its apps end.
    with pytest.MonkeyPatch.context() as patch, counted(patch) as clock:
        yield clock


@pytest.fixture
def watch(processor_time: ProcessorTime) -> Iterator[Callable[..., Watched]]:
    """Return a function that makes a watched app on a database; its engines are disposed of.

    Its statements take processor time; for one that waits, `processor_time` can count that, too.
    """
    made: list[Watched] = []

    def make(url: str, **config: object) -> Watched:
        app = Flask("tests.app")
        app.config.update(
            {
                "SQLALCHEMY_DATABASE_URI": url,
                "PLANWATCH_SAMPLE_INTERVAL": 0,
                # A busy machine must not turn a plan into a Skip.
                "PLANWATCH_STATEMENT_TIMEOUT_MS": 30_000,
                **config,
            }
        )
        app.config.setdefault("SQLALCHEMY_BINDS", {})
        db = SQLAlchemy(app, metadata=metadata)
        watched = Watched(app, db, PlanWatch(app))
        made.append(watched)
        return watched

    yield make
    for watched in made:
        with watched.app.app_context():
            watched.db.session.remove()
            for engine in watched.db.engines.values():
                watched.planwatch.unwatch(engine)
                engine.dispose()


@pytest.fixture
def empty_queue() -> None:
    """Wait until nothing of earlier tests is queued: all apps of a process share a queue."""
    assert worker._THREAD.wait(worker._THREAD.accepted(), PATIENCE)


@pytest.fixture
def limit_queue(monkeypatch: pytest.MonkeyPatch, empty_queue: None) -> Callable[[int], None]:
    """Return a function that sets how many captures may wait."""
    return lambda captures: monkeypatch.setattr(worker, "QUEUE_LIMIT", captures)


@pytest.fixture
def held(monkeypatch, empty_queue):
    """Hold each inspection up until the event that is returned is set."""
    go, original = threading.Event(), Inspector._inspect

    def inspect(self, capture):
        assert go.wait(240)
        return original(self, capture)

    monkeypatch.setattr(Inspector, "_inspect", inspect)
    yield go
    go.set()

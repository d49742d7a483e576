"""Fixtures: real servers, a database of 100 000 users, and apps that PlanWatch watches."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from hypothesis import HealthCheck, settings
from pytest_postgresql.janitor import DatabaseJanitor

from flask_planwatch import PlanWatch
from flask_planwatch.inspection import Inspector
from flask_planwatch.report import panel
from flask_planwatch.sampling import renew_budgets

from . import models, servers, stories
from .conditions import PATIENCE
from .models import metadata
from .processor_time import ProcessorTime, counted

_numbers = count(1)

# A busy machine takes any time for an example.
settings.register_profile(
    "steady",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("steady")


@dataclass(frozen=True)
class Database:
    """A database of one test or module, as URLs for both drivers."""

    server: servers.Server
    name: str

    @property
    def url(self) -> str:
        return self.url_for("psycopg2")

    def url_for(self, driver: str, **changes: object) -> str:
        url = self.server.url.set(drivername=f"postgresql+{driver}", database=self.name, **changes)
        return url.render_as_string(hide_password=False)

    def execute(self, *statements: str) -> None:
        """Run statements one by one in autocommit, outside every watched engine."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect().execution_options(no_parameters=True) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def scalar(self, statement: str) -> object:
        """Return the first value of a query, asked outside every watched engine."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with engine.connect().execution_options(no_parameters=True) as connection:
            return connection.exec_driver_sql(statement).scalar()


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


def _janitor(server: servers.Server, name: str, template: str | None = None) -> DatabaseJanitor:
    return DatabaseJanitor(
        user=server.url.username or "postgres",
        host=server.host,
        port=server.url.port or 5432,
        password=server.url.password or None,
        dbname=name,
        template_dbname=template,
        # pytest-postgresql asks the server itself if no version is given.
    )


def _templates(prefix: str, fill: Callable[[str], None]) -> Iterator[Callable[..., str]]:
    made: dict[str, tuple[servers.Server, str]] = {}

    def template(server: servers.Server) -> str:
        if server.name not in made:
            name = f"{prefix}_{os.getpid()}"
            _janitor(server, name).init()
            database = Database(server, name)
            fill(database.url)
            made[server.name] = (server, name)
        return made[server.name][1]

    yield template
    for server, name in made.values():
        _janitor(server, name).drop()


@pytest.fixture(scope="session")
def templates() -> Iterator[Callable[[servers.Server], str]]:
    """Make, once on each server, the database that the tests copy: its data are in models.py."""
    yield from _templates("planwatch_template", models.fill)


@pytest.fixture(scope="session")
def stories_templates() -> Iterator[Callable[[servers.Server], str]]:
    """Make, once on each server, the database of stories 2 to 5: its data are in stories.py."""
    yield from _templates("planwatch_stories", stories.fill)


def make_database(server: servers.Server, template: str | None) -> Iterator[Database]:
    """Make a database, a copy of the template if there is one, and drop it."""
    name = f"planwatch_{os.getpid()}_{next(_numbers)}"
    janitor = _janitor(server, name, template)
    janitor.init()
    yield Database(server, name)
    janitor.drop()


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
        assert self.planwatch.flush(120), self.planwatch.stats()
        return list(self.planwatch.findings())

    def ask(self, statement: sa.sql.expression.Executable, **parameters: object) -> list:
        """Run a statement and return the findings once it was inspected."""
        with self.app.app_context():
            self.db.session.execute(statement, parameters or None).all()
            self.db.session.rollback()
        return self.findings()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    """Return a function that makes a watched app on a database; its engines are disposed of."""
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
def processor_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessorTime]:
    """Have statements take as long as they compute, however busy the machine is."""
    with counted(monkeypatch) as clock:
        yield clock


@pytest.fixture
def held(monkeypatch):
    """Hold each inspection up until the event that is returned is set."""
    go, original = threading.Event(), Inspector._inspect

    def inspect(self, capture):
        assert go.wait(240)
        return original(self, capture)

    monkeypatch.setattr(Inspector, "_inspect", inspect)
    yield go
    go.set()

"""An advised index is pasted into model and migration, as Flask-Migrate's users do."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from textwrap import dedent, indent
from types import ModuleType
from typing import Any

import flask_migrate
import pytest
import sqlalchemy as sa
from flask import Flask

from flask_planwatch import PlanWatch
from flask_planwatch.finding import Advice

from . import servers
from .databases import Database, make_database

# The env.py that Flask-Migrate writes asks Flask-SQLAlchemy in the way of its earlier versions.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning"),
    pytest.mark.slow,
    pytest.mark.versions,
]

MODELS = """
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Column, DateTime, Integer, String, Text
from sqlalchemy.dialects.postgresql import JSONB

db = SQLAlchemy()


class User(db.Model):
    __tablename__ = "user"

    id = Column(Integer, primary_key=True)
    email = Column(String(255), nullable=False)
    nickname = Column("nick", Text)
    state = Column(Text)
    local_at = Column(DateTime)
    points = Column(Integer)
    data = Column(JSONB)
"""

ROWS = """
INSERT INTO "user" (email, nick, state, local_at, points, data)
SELECT 'User' || g || '@Example.com', 'Nick' || g,
       CASE WHEN g % 100 = 0 THEN 'Retired' ELSE 'Active' END,
       timestamp '2020-01-01 00:00' + g * interval '10 minutes', g,
       jsonb_build_object('type', 'T' || g, 'a', jsonb_build_object('b', 'T' || g), ':b', 'x' || g,
                          'n', g)
FROM generate_series(1, 30000) g
"""

_numbers = count(1)

Build = Callable[[Any], sa.Select]

#: What builds the statement, and a part of the index as the server prints it.
CASES: dict[str, tuple[Build, str]] = {
    "plain": (lambda u: sa.select(u).where(u.nickname == "Nick7"), "(nick)"),
    "expression": (
        lambda u: sa.select(u).where(sa.func.lower(u.email) == "x"),
        "(lower((email)::text))",
    ),
    "nested calls": (
        lambda u: sa.select(u).where(sa.func.lower(sa.func.left(u.email, 5)) == "x"),
        """(lower("left"((email)::text, 5)))""",
    ),
    "json": (lambda u: sa.select(u).where(u.data["type"].astext == "T7"), "->> 'type'::text"),
    "nested json": (lambda u: sa.select(u).where(u.data["a"]["b"].astext == "T7"), "->> 'b'::text"),
    "operator": (lambda u: sa.select(u).where(u.points % 7 == 3), "((points % 7))"),
    "arithmetic": (
        lambda u: sa.select(u).where(u.points * 2 + 1 == 7),
        "(((points * 2) + 1))",
    ),
    "coalesce": (
        lambda u: sa.select(u).where(sa.func.coalesce(u.nickname, sa.text("''")) == "x"),
        "(COALESCE(nick, ''::text))",
    ),
    "concatenation": (
        lambda u: sa.select(u).where(u.nickname + u.state == "x"),
        "((nick || state))",
    ),
    "concatenation in a call": (
        lambda u: sa.select(u).where(sa.func.lower(u.nickname + " " + u.email) == "x"),
        "(lower(((nick || ' '::text) || (email)::text)))",
    ),
    "coalesce in a call": (
        lambda u: sa.select(u).where(sa.func.lower(sa.func.coalesce(u.email, "")) == "x"),
        "(lower((COALESCE(email, ''::character varying))::text))",
    ),
    "cast in arithmetic": (
        lambda u: sa.select(u).where(sa.cast(u.data["n"].astext, sa.Integer) + 1 == 8),
        "'n'::text))::integer + 1))",
    ),
    "call of calls": (
        lambda u: sa.select(u).where(sa.func.upper(sa.func.lower(sa.func.btrim(u.email))) == "X"),
        "(upper(lower(btrim((email)::text))))",
    ),
    "CASE": (
        lambda u: sa.select(u).where(
            sa.case((u.nickname.is_(None), u.state), else_=u.nickname) == "x"
        ),
        "WHEN (nick IS NULL) THEN state",
    ),
    "date": (
        lambda u: sa.select(u).where(
            sa.func.date_trunc("day", u.local_at) == sa.text("timestamp '2021-01-01'")
        ),
        "(date_trunc('day'::text, local_at))",
    ),
    "partial": (
        lambda u: sa.select(u).where(u.state != "Active").order_by(u.local_at).limit(10),
        "WHERE (state <> 'Active'::text)",
    ),
    "partial, of an expression": (
        lambda u: sa.select(u).where(u.state != "Active").order_by(sa.func.lower(u.email)).limit(9),
        "(lower((email)::text)) WHERE (state <> 'Active'::text)",
    ),
    "carried": (
        lambda u: sa.select(u.points).where(u.state == "Retired"),
        "(state) INCLUDE (points)",
    ),
    "operator class": (
        lambda u: sa.select(u).where(u.nickname.like("Nick77%")),
        "(nick text_pattern_ops)",
    ),
    "operator class of an expression": (
        lambda u: sa.select(u).where(sa.func.lower(u.email).like("user77%")),
        "(lower((email)::text) text_pattern_ops)",
    ),
    "operator class of an extension": (
        lambda u: sa.select(u).where(u.nickname.ilike("%ick777%")),
        "USING gin (nick gin_trgm_ops)",
    ),
    "descending": (
        lambda u: sa.select(u).order_by(u.local_at.desc(), u.nickname).limit(10),
        "(local_at DESC, nick)",
    ),
    "NULLS last": (
        lambda u: sa.select(u).order_by(u.local_at.desc().nulls_last()).limit(10),
        "(local_at DESC NULLS LAST)",
    ),
    "descending expression": (
        lambda u: sa.select(u).order_by(sa.func.lower(u.email).desc(), u.points).limit(10),
        "(lower((email)::text) DESC, points)",
    ),
}


class Project:
    """A Flask app with Flask-SQLAlchemy, Flask-Migrate and PlanWatch, as files in a folder."""

    def __init__(self, folder: Path, database: Database, bind: str = "") -> None:
        self.name = f"shop_{next(_numbers)}"
        self.models = folder / f"{self.name}.py"
        key = f'    __bind_key__ = "{bind}"\n' if bind else ""
        self.models.write_text(MODELS.replace("    __tablename__", f"{key}    __tablename__"))
        self.migrations = folder / "migrations"
        self.database = database
        self.urls: dict[str, object] = {"SQLALCHEMY_DATABASE_URI": database.url}
        if bind:
            self.urls["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder / 'other.db'}"
            self.urls["SQLALCHEMY_BINDS"] = {bind: database.url}

    def start(self, **config: object) -> tuple[Flask, ModuleType]:
        """Return a new app with the models as they are now."""
        sys.modules.pop(self.name, None)
        importlib.invalidate_caches()
        models = importlib.import_module(self.name)
        app = Flask("tests.app")
        app.config.update(
            PLANWATCH_SAMPLE_INTERVAL=0,
            PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
            **self.urls,
            **config,
        )
        models.db.init_app(app)
        flask_migrate.Migrate(app, models.db, directory=str(self.migrations))
        return app, models

    @contextmanager
    def started(self) -> Iterator[Flask]:
        """A new app whose connections are closed in the end."""
        app, models = self.start()
        yield app
        with app.app_context():
            dispose(models)

    @property
    def revisions(self) -> set[Path]:
        """The files of the migrations."""
        return set(self.migrations.glob("versions/*.py"))

    @property
    def indexes(self) -> str:
        """The indexes of the table, as the server prints them."""
        return str(
            self.database.scalar(
                "SELECT string_agg(indexdef, '; ') FROM pg_indexes WHERE tablename = 'user'"
            )
        )

    @property
    def constraints(self) -> str:
        """The unique constraints of the table, as the server prints them."""
        return str(
            self.database.scalar(
                "SELECT string_agg(pg_get_constraintdef(oid), '; ') FROM pg_constraint "
                "WHERE contype = 'u' AND conrelid = '\"user\"'::regclass"
            )
        )


def dispose(models: ModuleType) -> None:
    """Close the connections of all engines."""
    for engine in models.db.engines.values():
        engine.dispose()


@pytest.fixture
def project(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """A project with a table of 30 000 rows, and no migration yet."""
    yield from made_project(tmp_path, database, monkeypatch)


def made_project(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, bind: str = ""
) -> Iterator[Project]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    project = Project(tmp_path, database, bind)
    app, models = project.start()
    with app.app_context():
        models.db.create_all()
        flask_migrate.init(multidb=bool(bind))
        dispose(models)
    database.execute(ROWS, "VACUUM ANALYZE")
    yield project
    sys.modules.pop(project.name, None)


@pytest.fixture
def on_hypopg(
    tmp_path: Path, hypopg_server: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """The same project on a server with HypoPG."""
    for database in make_database(hypopg_server, None):
        database.install_hypopg()
        yield from made_project(tmp_path, database, monkeypatch)


@pytest.fixture
def with_bind(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """The same project with its table in a bind, and the migrations of several databases."""
    yield from made_project(tmp_path, database, monkeypatch, "archive")


def advised(project: Project, build: Build, *, verify: str = "build", name: str = "User") -> Advice:
    """Run a statement on the class of this name, and return the first advice on it."""
    app, models = project.start(PLANWATCH_VERIFY=verify)
    planwatch = PlanWatch(app)
    with app.app_context():
        models.db.session.execute(build(getattr(models, name))).all()
        models.db.session.rollback()
        assert planwatch.flush(120)
        (finding,) = planwatch.findings()
        dispose(models)
    return finding.advice[0]


def parts_of(piece: str) -> tuple[str, str]:
    """Return what goes to the end of the model's module, and what into the new migration."""
    model, migration = re.split(r"^# 2\. In place of .*$", piece, flags=re.MULTILINE)
    return model, migration


def paste(project: Project, *, model: str = "", migration: str = "") -> None:
    """Paste into the files that Flask-Migrate knows, and upgrade the database."""
    if model:
        project.models.write_text(f"{project.models.read_text()}\n{model}\n")
    if migration:
        with project.start()[0].app_context():
            flask_migrate.revision(message="index")
        (path,) = project.revisions
        head, _, _ = path.read_text().partition("def upgrade")
        path.write_text(f"{head}{migration}\n")
        with project.started() as app, app.app_context():
            flask_migrate.upgrade()


def generated(project: Project) -> str:
    """Return the revision that `flask db migrate` writes, or nothing if it finds no change."""
    before = project.revisions
    with project.started() as app, app.app_context():
        flask_migrate.migrate()
    return "".join(path.read_text() for path in project.revisions - before)


@pytest.mark.parametrize("name", CASES)
def test_autogenerate_finds_no_change_after_both(project, name):
    build, printed = CASES[name]
    advice = advised(project, build)
    model, migration = parts_of(advice.migration)
    paste(project, model=model, migration=migration)
    assert printed in project.indexes
    assert "may not see" not in advice.migration
    assert generated(project) == ""


#: What HypoPG can try, and whose text alone tells how PostgreSQL prints it once it is built.
HYPOTHETICAL = (
    "nested calls", "nested json", "arithmetic", "concatenation in a call", "coalesce in a call",
    "cast in arithmetic", "call of calls",
)  # fmt: skip


@pytest.mark.parametrize("name", HYPOTHETICAL)
def test_autogenerate_finds_no_change_after_a_hypothetical_index(on_hypopg, name):
    build, printed = CASES[name]
    advice = advised(on_hypopg, build, verify="auto")
    assert advice.verdict.method == "hypopg"
    model, migration = parts_of(advice.migration)
    paste(on_hypopg, model=model, migration=migration)
    assert printed in on_hypopg.indexes
    assert "may not see" not in advice.migration
    assert generated(on_hypopg) == ""


#: What the models declare and no migration has created, and the index as the server prints it.
DECLARED = {
    "plain": ("db.Index('ix_of_ours', User.nickname)", "CREATE INDEX ix_of_ours"),
    "unique": ("db.Index('ix_of_ours', User.nickname, unique=True)", "CREATE UNIQUE INDEX ix_of_"),
    "constraint": (
        "User.__table__.append_constraint(db.UniqueConstraint('nick', name='ix_of_ours'))",
        "CREATE UNIQUE INDEX ix_of_ours",
    ),
    "INCLUDE": (
        "db.Index('ix_of_ours', User.nickname, postgresql_include=['email', User.points])",
        "USING btree (nick) INCLUDE (email, points)",
    ),
    "NULLS NOT DISTINCT": (
        "db.Index('ix_of_ours', User.nickname, unique=True, postgresql_nulls_not_distinct=True)",
        'CREATE UNIQUE INDEX ix_of_ours ON public."user" USING btree (nick) NULLS NOT DISTINCT',
    ),
    "constraint NULLS NOT DISTINCT": (
        "User.__table__.append_constraint(db.UniqueConstraint('nick', name='ix_of_ours', "
        "postgresql_nulls_not_distinct=True))",
        'CREATE UNIQUE INDEX ix_of_ours ON public."user" USING btree (nick) NULLS NOT DISTINCT',
    ),
    "DEFERRABLE": (
        "User.__table__.append_constraint(db.UniqueConstraint('nick', name='ix_of_ours', "
        "deferrable=True))",
        "UNIQUE (nick) DEFERRABLE;",
    ),
    "INITIALLY DEFERRED": (
        "User.__table__.append_constraint(db.UniqueConstraint('nick', name='ix_of_ours', "
        "deferrable=True, initially='deferred'))",
        "UNIQUE (nick) DEFERRABLE INITIALLY DEFERRED;",
    ),
}


def declare(project: Project, name: str) -> str:
    """Add a declaration to the models, and return what the server prints once it is created."""
    declaration, printed = DECLARED[name]
    version = int(str(project.database.scalar("SHOW server_version_num")))
    if "NULLS NOT DISTINCT" in printed and version < 150_000:
        pytest.skip("NULLS NOT DISTINCT is new in PostgreSQL 15")
    project.models.write_text(f"{project.models.read_text()}\n{declaration}\n")
    return printed


@pytest.mark.parametrize("name", DECLARED)
def test_what_the_model_declares_needs_the_migration_only(project, name):
    printed = declare(project, name)
    advice = advised(project, CASES["plain"][0])
    assert advice.sqlalchemy == ""
    said = "# User.__table__ declares this index already: if no migration creates it yet, this one"
    assert advice.migration.startswith(said)
    paste(project, migration=advice.migration)
    assert printed in f"{project.indexes}; {project.constraints};"
    assert generated(project) == ""
    with project.started() as app, app.app_context():
        flask_migrate.downgrade()
    assert "ix_of_ours" not in project.indexes


#: What the models declare that an index on the column alone would not be.
OTHERS = {
    "USING": "db.Index('ix_of_ours', User.nickname, postgresql_using='hash')",
    "WHERE": "db.Index('ix_of_ours', User.nickname, postgresql_where=User.points > 7)",
    "an operator class": "db.Index('ix_of_ours', User.nickname, "
    "postgresql_ops={'nick': 'text_pattern_ops'})",
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_index_that_is_not_what_the_model_declares_has_another_name(project, name):
    project.models.write_text(f"{project.models.read_text()}\n{OTHERS[name]}\n")
    advice = advised(project, CASES["plain"][0])
    assert "ix_of_ours" not in advice.summary
    assert advice.sqlalchemy


@pytest.mark.parametrize("name", DECLARED)
def test_the_ddl_of_what_is_declared_creates_just_that(project, name):
    printed = declare(project, name)
    project.database.execute(*advised(project, CASES["plain"][0]).ddl)
    assert printed in f"{project.indexes}; {project.constraints};"
    assert generated(project) == ""


def test_each_part_alone_is_what_the_piece_says_of_it(project):
    advice = advised(project, CASES["expression"][0])
    _, migration = parts_of(advice.migration)
    text = " ".join(advice.migration.replace("#", "").split())
    assert "Without the first, the next autogenerated migration drops the index" in text
    assert "without the second, it creates the index without CONCURRENTLY" in text
    paste(project, migration=migration)
    upgrade, _, _ = generated(project).partition("def downgrade")
    assert "drop_index" in upgrade


def test_model_alone_creates_the_index_without_concurrently(project):
    model, _ = parts_of(advised(project, CASES["expression"][0]).migration)
    paste(project, model=model)
    upgrade, _, _ = generated(project).partition("def downgrade")
    assert "create_index" in upgrade
    assert "concurrently" not in upgrade


def test_both_forms_of_the_panel_are_those_of_the_piece(project):
    advice = advised(project, CASES["partial"][0])
    assert advice.alembic in advice.migration
    assert advice.sqlalchemy.splitlines()[-1] in advice.migration


def test_of_a_bind_it_is_said_what_to_do_with_the_migrations_of_several_databases(with_bind):
    advice = advised(with_bind, CASES["expression"][0])
    model, migration = parts_of(advice.migration)
    assert "these are upgrade_archive() and downgrade_archive(), and an" in migration
    with_bind.database.execute(*advice.ddl)
    paste(with_bind, model=model)
    with with_bind.started() as app, app.app_context():
        flask_migrate.revision(message="index")
        (path,) = with_bind.revisions
        text = path.read_text()
        _, _, block = advice.alembic.partition("def upgrade():\n")
        failing = text.replace(
            "def upgrade_archive():\n    pass", f"def upgrade_archive():\n{block}"
        )
        assert failing != text
        path.write_text(failing)
        with pytest.raises(AssertionError):
            flask_migrate.upgrade()
        created = re.search(r" +op.create_index\(.*?\n +\)", block, re.DOTALL)[0]
        created = dedent(created).replace("postgresql_concurrently", "if_not_exists")
        upgrade = f"def upgrade_archive():\n{indent(created, '    ')}"
        path.write_text(text.replace("def upgrade_archive():\n    pass", upgrade))
        flask_migrate.upgrade()
    assert generated(with_bind) == ""


def test_record_of_the_log_says_that_they_belong_together(project):
    """With a placeholder for the value, as all that leaves the process."""
    said = advised(project, CASES["partial"][0]).as_dict()["migration"]
    assert said.startswith("# The two parts belong together.")
    assert ":state_1" in said
    assert "Active" not in said


def test_a_colon_is_what_alembic_cannot_compare_and_the_piece_says_so(project):
    advice = advised(project, lambda u: sa.select(u).where(u.data[":b"].astext == "x"))
    model, migration = parts_of(advice.migration)
    paste(project, model=model, migration=migration)
    assert "Alembic may not see that PostgreSQL prints this expression" in advice.migration
    assert "drop_index" in generated(project)


def test_what_alembic_does_not_compare_is_said(project):
    """The model's condition is another one than the index has, and no change is found."""
    advice = advised(project, CASES["partial"][0])
    model, migration = parts_of(advice.migration)
    paste(project, model=model.replace("Active", "Retired"), migration=migration)
    assert "Alembic does not compare WHERE: if that changes later" in advice.migration
    assert generated(project) == ""


#: What a class is called, and what else the module calls so.
NAMES = {
    "Index": "sa = sqlalchemy = Index",
    "text": "",
    "func": "sa = func",
    "sa": "text = sa",
    "op": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_class_with_a_name_of_sqlalchemy_stays_what_it_is(project, name):
    models = project.models.read_text().replace("class User", f"class {name}")
    project.models.write_text(f"{models}\n\n{NAMES[name]}\n")
    advice = advised(project, CASES["partial, of an expression"][0], name=name)
    model, migration = parts_of(advice.migration)
    paste(project, model=model, migration=migration)
    assert generated(project) == ""
    _, pasted = project.start()
    for each in (name, *NAMES[name].split(" = ")):
        assert not each or issubclass(getattr(pasted, each), pasted.db.Model)

"""An index is advised for the class that maps the table of this engine, in a form that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_planwatch import PlanWatch
from flask_planwatch.finding import Advice

from .databases import Database

pytestmark = [pytest.mark.slow, pytest.mark.versions]

TABLES = (
    "CREATE TABLE member (id serial PRIMARY KEY, email text, mail text)",
    "INSERT INTO member (email, mail) SELECT 'e' || g, 'm' || g FROM generate_series(1, 20000) g",
    "VACUUM ANALYZE",
)


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class Account(db.Model):
    __tablename__ = "member"

    id: Mapped[int] = mapped_column(primary_key=True)
    mail: Mapped[str] = mapped_column(index=True)


class Reader(db.Model):
    __bind_key__ = "reports"
    __tablename__ = "member"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    nick: Mapped[str] = mapped_column("mail")


class Other(DeclarativeBase):
    pass


class Addressee(Other):
    """Another application's class, on an engine of its own."""

    __tablename__ = "member"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


EMAIL = "SELECT id FROM member WHERE lower(email) = 'e7'"
MAIL = "SELECT id FROM member WHERE mail = 'm7'"

Ask = Callable[[str | None, sa.Executable], Advice]


@pytest.fixture
def filled(database: Database) -> Database:
    database.execute(*TABLES)
    return database


@pytest.fixture
def ask(filled: Database) -> Iterator[Ask]:
    """Return a function that runs a statement on a bind, and returns the advice on it."""
    app = Flask("tests.app")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=filled.url,
        SQLALCHEMY_BINDS={"reports": filled.url, "replica": filled.url},
        PLANWATCH_SAMPLE_INTERVAL=0,
        PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
        PLANWATCH_VERIFY="build",
    )
    db.init_app(app)
    planwatch = PlanWatch(app)

    def ask(bind: str | None, statement: sa.Executable) -> Advice:
        planwatch.clear(app)
        with app.app_context(), db.engines[bind].connect() as connection:
            connection.execute(statement).all()
        return advised(planwatch, app)

    yield ask
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


def advised(planwatch: PlanWatch, app: Flask) -> Advice:
    assert planwatch.flush(120, app)
    (finding,) = planwatch.findings(app)
    return finding.advice[0]


def is_for(advice: Advice, name: str) -> bool:
    """Whether the advice has the code for this class in both forms."""
    imported = f"from tests.test_mapping import {name}\n" in advice.sqlalchemy
    return imported and f"{name}." in advice.migration


WITHOUT_CLASS = 'member = Table("member", MetaData(), autoload_with=engine)'


def test_of_two_binds_each_has_its_own_class(ask):
    """Also when nothing but the bind tells, and whichever class was used before."""
    assert is_for(ask("reports", sa.text(EMAIL)), "Reader")
    account = sa.select(Account.id).where(Account.mail == "m7")
    assert "Account.__table__ declares this index already" in ask(None, account).migration
    assert is_for(
        ask("reports", sa.select(Reader.id).where(func.lower(Reader.email) == "x")), "Reader"
    )
    assert "Account.__table__ declares" in ask(None, sa.text(MAIL)).migration


def test_what_the_class_of_another_bind_declares_is_not_said(ask):
    for statement in (sa.select(Reader.id).where(Reader.nick == "m7"), sa.text(MAIL)):
        advice = ask("reports", statement)
        assert "declare" not in advice.migration + advice.explanation
        assert 'Index("ix_member_mail", Reader.nick)' in advice.sqlalchemy


def test_a_bind_without_classes_has_those_that_were_used_on_it(ask):
    """Nothing tells of a replica what its tables are, until a class is used."""
    assert WITHOUT_CLASS in ask("replica", sa.text(EMAIL)).sqlalchemy
    lower = sa.select(Account.id).where(func.lower(Account.mail) == "x")
    assert is_for(ask("replica", lower), "Account")
    assert "Account.__table__ declares" in ask("replica", sa.text(MAIL)).migration


def test_of_two_plain_engines_each_has_the_class_that_was_used_on_it(filled):
    app = Flask("tests.app")
    app.config.update(PLANWATCH_SAMPLE_INTERVAL=0, PLANWATCH_VERIFY="build")
    planwatch = PlanWatch(app)
    classes = {Account: Account.mail, Addressee: Addressee.email}
    engines = [sa.create_engine(filled.url) for _ in classes]
    for engine in engines:
        planwatch.watch(engine, app)
    for _ in range(2):
        for engine, (mapped, column) in zip(engines, classes.items(), strict=True):
            for statement in (
                sa.select(mapped.id).where(func.lower(column) == "x"),
                sa.text(f"SELECT id FROM member WHERE upper({column.name}) = 'x'"),
            ):
                planwatch.clear(app)
                with engine.connect() as connection:
                    connection.execute(statement).all()
                assert is_for(advised(planwatch, app), mapped.__name__)
    for engine in engines:
        engine.dispose()

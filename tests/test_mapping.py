"""An index is advised for the class that maps the table of this engine, in a form that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, registry

from flask_planwatch import PlanWatch
from flask_planwatch.finding import Advice

from .databases import Database

pytestmark = [pytest.mark.slow, pytest.mark.versions]

TABLES = (
    "CREATE TABLE member (id serial PRIMARY KEY, email text, mail text)",
    "INSERT INTO member (email, mail) SELECT 'e' || g, 'm' || g FROM generate_series(1, 20000) g",
    "CREATE TABLE label (member_id int, name text)",
    "INSERT INTO label SELECT g, 'l' || g FROM generate_series(1, 20000) g",
    "CREATE TABLE func (id int, name text)",
    "INSERT INTO func SELECT g, 'l' || g FROM generate_series(1, 20000) g",
    "CREATE TABLE text (id int, name text)",
    "INSERT INTO text SELECT g, 'l' || g FROM generate_series(1, 20000) g",
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


imperative = registry(metadata=sa.MetaData())
#: Not the metadata of the registry.
tables = sa.MetaData()
member = sa.Table(
    "member", tables, sa.Column("id", sa.Integer, primary_key=True), sa.Column("email", sa.Text)
)
label = sa.Table("label", tables, sa.Column("member_id", sa.Integer), sa.Column("name", sa.Text))
sa.Index("label_by_name", label.c.name)
# Under a name that its index needs, and that this module has for another thing.
functions = sa.Table("func", tables, sa.Column("id", sa.Integer), sa.Column("name", sa.Text))


class Person:
    """Mapped imperatively: it has no attribute `metadata`."""


imperative.map_imperatively(Person, member)

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


@pytest.mark.parametrize(("bind", "named"), [(None, ""), ("reports", "reports")])
def test_the_migrations_of_several_databases_have_a_function_for_each(ask, bind, named):
    said = ask(bind, sa.text(MAIL)).migration
    assert f"these are upgrade_{named}() and downgrade_{named}(), and an" in said


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


@pytest.fixture
def plain(filled: Database) -> Iterator[tuple[sa.Engine, Callable[[sa.Executable], Advice]]]:
    """Return an engine, and a function that runs a statement on it and returns the advice."""
    app = Flask("tests.app")
    app.config.update(PLANWATCH_SAMPLE_INTERVAL=0, PLANWATCH_VERIFY="build")
    planwatch = PlanWatch(app)
    engine = sa.create_engine(filled.url)
    planwatch.watch(engine, app)

    def ask(statement: sa.Executable) -> Advice:
        planwatch.clear(app)
        with engine.connect() as connection:
            connection.execute(statement).all()
        return advised(planwatch, app)

    yield engine, ask
    engine.dispose()


def test_a_class_of_automap_has_no_module_to_import_it_from(plain):
    engine, ask = plain
    base = automap_base()
    base.prepare(autoload_with=engine)
    found = base.classes.member
    advice = ask(sa.select(found.id).where(func.lower(found.email) == "x"))
    assert WITHOUT_CLASS in advice.sqlalchemy
    assert "automap" not in advice.sqlalchemy
    assert advice.migration == ""
    exec(advice.sqlalchemy, {"engine": engine})


def test_an_imperatively_mapped_class(plain):
    _, ask = plain
    advice = ask(sa.select(Person.id).where(func.lower(Person.email) == "x"))
    assert is_for(advice, "Person")
    created(advice, member, "ix_member_lower_email")


def test_a_table_without_a_class_beside_an_imperatively_mapped_class(plain):
    _, ask = plain
    ask(sa.select(Person.id).where(func.lower(Person.email) == "x"))
    advice = ask(sa.select(label.c.member_id).where(func.lower(label.c.name) == "x"))
    assert is_for(advice, "Person")
    created(advice, label, "ix_label_lower_name")


def test_what_a_table_without_a_class_declares_is_said_of_this_table(plain):
    _, ask = plain
    ask(sa.select(Person.id).where(func.lower(Person.email) == "x"))
    advice = ask(sa.select(label.c.member_id).where(label.c.name == "l7"))
    said = 'Person.__table__.metadata.tables["label"] declares this index already'
    assert said in advice.migration
    assert eval(said.partition(" ")[0]) is label


def test_a_table_with_a_name_that_the_code_needs(plain):
    engine, ask = plain
    ask(sa.select(Person.id).where(func.lower(Person.email) == "x"))
    advice = ask(sa.select(functions.c.id).where(func.lower(functions.c.name) == "x"))
    created(advice, functions, "ix_func_lower_name")
    advice = ask(sa.text("SELECT id FROM text WHERE name || name = 'x'"))
    assert "text(" in advice.sqlalchemy
    exec(advice.sqlalchemy, {"engine": engine})


def created(advice: Advice, table: sa.Table, name: str) -> None:
    """Run the code of an index, and see that the table has it."""
    exec(advice.sqlalchemy, {})
    (index,) = [index for index in table.indexes if index.name == name]
    table.indexes.discard(index)

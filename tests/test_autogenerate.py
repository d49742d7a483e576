"""Alembic's autogenerate finds no change in what PlanWatch renders, or it is said that it may."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations

from flask_planwatch.indexes.candidate import Candidate, Key
from flask_planwatch.indexes.definition import as_defined, printed_keys
from flask_planwatch.indexes.mapped import MappedTable
from flask_planwatch.indexes.render import alembic_operation, model_and_migration, sqlalchemy_index
from flask_planwatch.plan.schema import Relation, Schema, Structural

from . import servers
from .databases import Database, make_database
from .models import User, metadata

pytestmark = [pytest.mark.slow, pytest.mark.versions]

RELATION = Relation(
    key="public.user",
    schema="public",
    name="user",
    display='"user"',
    quoted_name='"user"',
    kind="r",
    rows=1.0,
    root="public.user",
    columns=(),
)

MAPPED = MappedTable(
    "tests.models",
    "User",
    "User.__table__",
    {column.name: attribute.key for attribute in sa.inspect(User).column_attrs
     for column in attribute.columns},
    frozenset({"data"}),
)  # fmt: skip

NOTE = "Alembic may not see that PostgreSQL prints this expression in another way"


def on(*keys: Key, **options: object) -> Candidate:
    return Candidate(RELATION, keys, Schema({}), frozenset(), **options)  # type: ignore[arg-type]


def expression(text: str, **options: object) -> Key:
    return Key(Structural(text), **options)  # type: ignore[arg-type]


def column(name: str, **options: object) -> Key:
    return Key(Structural(name), name, **options)  # type: ignore[arg-type]


TRIGRAMS = {"method": "gin", "extension": "pg_trgm"}

#: Indexes that Alembic finds as they are in the model.
ALIKE = {
    "two columns": on(column("state"), column("local_at")),
    "call": on(expression("lower(email)")),
    "call of a call": on(expression("lower(left(email, 5))")),
    "call with a text": on(expression("date_trunc('day', local_at)")),
    "call with numbers": on(expression("substr(nick, 1, 3)")),
    "text search": on(expression("to_tsvector('english', nick)"), method="gin"),
    "json": on(expression("data ->> 'type'")),
    "json in json": on(expression("(data -> 'a') ->> 'b'")),
    "json by subscript": on(expression("data['a'] ->> 'b'")),
    "json in a call": on(expression("lower(data ->> 'type')")),
    "json with a type": on(expression("(data ->> 'n')::integer")),
    "operator": on(expression("points % 7")),
    "sum of a product": on(expression("(points * 2) + 1")),
    "product of a sum": on(expression("(points + 1) * 2")),
    "sum of sums": on(expression("((points + 1) - id) + (id - 2)")),
    "quotients": on(expression("((points / 2) % 7) - (points / (id / 2))")),
    "call of a sum": on(expression("abs((points * 2) - (id * 3))")),
    "sum of a product, descending": on(expression("(points * 2) + 1", descending=True)),
    "sum of a cast": on(expression("((points)::numeric * 2.5) + (id)::numeric")),
    "text and text": on(expression("(first || ' '::text) || last")),
    "column in parentheses": on(expression("lower((email)::text)")),
    "operator in a call": on(expression("lower(first || last)")),
    "texts in a call": on(expression("lower(((first || ' ') || last))")),
    "text and varchar in a call": on(expression("lower(((nick || ' ') || email))")),
    "coalesce in a call": on(expression("lower((COALESCE(email, ''::character varying))::text)")),
    "coalesce and text": on(expression("COALESCE(nick, ''::text) || last")),
    "calls of calls": on(expression("upper(lower(btrim((email)::text)))")),
    "call of calls in an operator": on(expression("lower(btrim(nick)) || upper(last)")),
    "cast of json in a sum": on(expression("((data ->> 'n'))::integer + 1")),
    "cast of json in a product": on(expression("2.5 * (data ->> 'n')::numeric")),
    "cast of json in a call": on(expression("abs(((data ->> 'n'))::integer)")),
    "cast of json in a sum in a call": on(expression("abs(((data ->> 'n'))::integer + 1)")),
    "cast of a number in json": on(expression("((data -> 'n'))::integer + 1")),
    "cast of a sum in a product": on(expression("((points + 1))::numeric * 2.5")),
    "cast of a sum to text": on(expression("((points + 1))::text || nick")),
    "cast of a sum of a cast": on(expression("(((points)::numeric + 1.5))::integer % 7")),
    "cast of a call to text": on(expression("(abs(points))::text || nick")),
    "time zone in a call": on(expression("date_trunc('day', (created_at AT TIME ZONE 'UTC'))")),
    "comparison of tests": on(expression("(nick IS NULL) = (last IS NULL)")),
    "comparison in a call": on(expression("COALESCE((points > 5), false)")),
    "sum in an extract": on(expression("EXTRACT(year FROM local_at) + (points)::numeric")),
    "coalesce": on(expression("COALESCE(nick, 'it''s'::text)")),
    "extract": on(expression("EXTRACT(year FROM local_at)")),
    "time zone": on(expression("(created_at AT TIME ZONE 'UTC')::date")),
    "NULL": on(expression("nick IS NULL")),
    "column and call": on(column("state"), expression("lower(email)")),
    "partial": on(column("local_at"), predicate="state <> 'Active'"),
    "partial call": on(expression("lower(email)"), predicate="state <> 'Active'::text"),
    "carried": on(column("state"), include=("points", "nick")),
    "carried beside a call": on(expression("lower(email)"), include=("points",)),
    "class of a column": on(column("nick", operator_class="text_pattern_ops")),
    "class of a call": on(expression("lower(email)", operator_class="text_pattern_ops")),
    "class for json": on(column("data", operator_class="jsonb_path_ops"), method="gin"),
    "trigrams of a call": on(expression("lower(email)", operator_class="gin_trgm_ops"), **TRIGRAMS),
    "descending": on(column("local_at", descending=True), column("nick")),
    "descending call": on(expression("lower(email)", descending=True)),
    "descending operator": on(expression("points % 7", descending=True)),
    "NULLS last": on(column("local_at", descending=True, nulls="LAST")),
    "NULLS first": on(column("local_at", nulls="FIRST")),
}

#: Indexes that are found as they are in the model if the server told how it prints them once built;
#: else they are dropped and created.
TOLD = {
    "json without parentheses": on(expression("data -> 'a' ->> 'b'")),
    "AND": on(expression("(points > 5) AND (id > 3)")),
    "CASE": on(expression("CASE WHEN (points > 0) THEN 1 ELSE 0 END")),
    "cast of a text in a sum": on(expression("(first || '1')::integer + 1")),
    "cast of a cast in a product": on(expression("((((data ->> 'n'))::integer))::numeric * 2.5")),
    "NOT": on(expression("NOT (points > 5)")),
}

#: Indexes that it drops and creates, as SQLAlchemy writes or reads them in another way.
ANEW = {
    "colon": on(expression("data ->> ':b'")),
    "collation": on(expression('nick COLLATE "C"')),
    "descending with a class": on(
        column("nick", operator_class="text_pattern_ops", descending=True)
    ),
}


@pytest.fixture(scope="module")
def engine(any_server: servers.Server) -> Iterator[sa.Engine]:
    """An engine on an empty table, on each server in turn."""
    for database in make_database(any_server, None):
        yield prepared_engine(database)


def prepared_engine(database: Database) -> sa.Engine:
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    User.__table__.create(engine)
    return engine


def built(engine: sa.Engine, candidate: Candidate, *, pretty: bool) -> Candidate:
    """Return a candidate with its keys as the server prints them, as each kind of trial does."""
    asked = "SELECT pg_get_indexdef('tried'::regclass{}"
    with engine.connect() as connection:
        if candidate.extension:
            connection.exec_driver_sql(candidate.create_extension)
        connection.exec_driver_sql(f"CREATE INDEX tried {candidate.definition.replace('%', '%%')}")
        if pretty:
            places = f", key, true) FROM generate_series(1, {len(candidate.keys)}) key"
            printed = connection.exec_driver_sql(asked.format(places)).scalars().all()
        else:
            # HypoPG prints the whole, with all parentheses.
            whole = connection.exec_driver_sql(asked.format(")")).scalar()
            printed = [as_defined(key) or "" for key in printed_keys(whole)]
        connection.rollback()
    keys = (
        replace(key, definition=text) for key, text in zip(candidate.keys, printed, strict=True)
    )
    return replace(candidate, keys=tuple(keys))


@pytest.mark.parametrize("name", ALIKE | TOLD | ANEW)
def test_text_alone_tells_what_the_server_prints_or_nothing(engine, name):
    index = (ALIKE | TOLD | ANEW)[name]
    by_text, by_server = (built(engine, index, pretty=pretty) for pretty in (False, True))
    for guessed, told in zip(by_text.keys, by_server.keys, strict=True):
        if told.column is None and "COLLATE" not in told.term:
            assert guessed.definition in {"", told.definition}


def changes(engine: sa.Engine, candidate: Candidate) -> list[object]:
    """What autogenerate finds once both forms are in place."""
    before = set(User.__table__.indexes)
    names: dict[str, object] = {}
    options = {"include_name": lambda name, kind, parents: kind != "table" or name == "user"}
    options["include_object"] = lambda one, name, kind, *_: kind != "table" or name == "user"
    try:
        exec(sqlalchemy_index(candidate, MAPPED), {})
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts=options)
            exec(alembic_operation(candidate), names)
            with Operations.context(context), context.begin_transaction():
                names["upgrade"]()  # type: ignore[operator]
            found = compare_metadata(context, metadata)
            with Operations.context(context), context.begin_transaction():
                names["downgrade"]()  # type: ignore[operator]
    finally:
        User.__table__.indexes.intersection_update(before)
    return found


@pytest.mark.parametrize("name", ALIKE)
def test_no_change_is_found(engine, name):
    assert NOTE not in model_and_migration(ALIKE[name], MAPPED)
    assert changes(engine, ALIKE[name]) == []


@pytest.mark.parametrize("pretty", [True, False], ids=["built", "hypothetical"])
@pytest.mark.parametrize("name", ALIKE)
def test_what_the_server_told_changes_nothing_for_the_reader(engine, name, pretty):
    told = built(engine, ALIKE[name], pretty=pretty)
    assert model_and_migration(told, MAPPED) == model_and_migration(ALIKE[name], MAPPED)


@pytest.mark.parametrize("name", TOLD)
def test_no_change_is_found_once_the_server_told(engine, name):
    told = built(engine, TOLD[name], pretty=True)
    assert NOTE not in model_and_migration(told, MAPPED)
    assert changes(engine, told) == []


@pytest.mark.parametrize("name", TOLD | ANEW)
def test_where_one_is_found_the_piece_says_so(engine, name):
    index = (TOLD | ANEW)[name]
    assert NOTE in model_and_migration(index, MAPPED)
    assert [change[0] for change in changes(engine, index)] == ["remove_index", "add_index"]


@pytest.mark.parametrize("pretty", [True, False], ids=["built", "hypothetical"])
@pytest.mark.parametrize("name", TOLD | ANEW)
def test_what_the_server_told_is_never_taken_for_more(engine, name, pretty):
    told = built(engine, (TOLD | ANEW)[name], pretty=pretty)
    found = [change[0] for change in changes(engine, told)]
    noted = NOTE in model_and_migration(told, MAPPED)
    assert found == (["remove_index", "add_index"] if noted else [])


def test_a_table_without_a_model_has_no_piece():
    assert model_and_migration(ALIKE["call"], None) == ""

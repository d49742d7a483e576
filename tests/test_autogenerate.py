"""Alembic's autogenerate finds no change in what PlanWatch renders, or it is said that it may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations

from flask_planwatch.indexes.candidate import Candidate, Key
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
    "user",
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

#: Indexes that it drops and creates, as the server prints them in another way.
ANEW = {
    "colon": on(expression("data ->> ':b'")),
    "json without parentheses": on(expression("data -> 'a' ->> 'b'")),
    "AND": on(expression("(points > 5) AND (id > 3)")),
    "CASE": on(expression("CASE WHEN (points > 0) THEN 1 ELSE 0 END")),
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


@pytest.mark.parametrize("name", ANEW)
def test_where_one_is_found_the_piece_says_so(engine, name):
    assert NOTE in model_and_migration(ANEW[name], MAPPED)
    assert [change[0] for change in changes(engine, ANEW[name])] == ["remove_index", "add_index"]


def test_a_table_without_a_model_has_no_piece():
    assert model_and_migration(ALIKE["call"], None) == ""

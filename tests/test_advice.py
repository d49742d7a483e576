"""Each rendering of an advised index is run, and the finding is then resolved."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_planwatch import VerdictStatus
from flask_planwatch.indexes.candidate import index_name
from flask_planwatch.plan.figures import MAX_NAME_BYTES
from flask_planwatch.plan.schema import Relation

from .cases import first
from .models import Base, Order, User, roles_users

STATEMENTS = {
    "reserved table name": sa.select(User).where(func.lower(User.email) == "x"),
    "attribute named unlike its column": sa.select(User).where(func.upper(User.nickname) == "X"),
    "json": sa.select(User).where(User.data["type"].astext == "T7"),
    "nested json": sa.select(User).where(User.data["a"]["b"].astext == "T7"),
    "operator": sa.select(User).where(User.points % 7 == 3),
    "key with a colon": sa.select(User).where(User.data[":b"].astext == "x"),
    "nested functions": sa.select(User).where(func.lower(func.left(User.email, 5)) == "user7"),
    "table without a class": sa.select(roles_users).where(func.lower(roles_users.c.label) == "x"),
    "partitioned, in a schema": sa.select(Order).where(func.lower(Order.Code) == "c7"),
}


#: A table in a schema, with names in quotes and a column whose key is another.
Parcels = sa.Table(
    "My Parcels",
    sa.MetaData(schema="Shop"),
    sa.Column("The Town", sa.Text),
    sa.Column("The Code", sa.Integer, key="code"),
)

retired = User.state == "Retired"

#: Statements whose best index has a shape, and how the server prints it.
SHAPES = {
    "several columns": (
        sa.select(User).where(retired, User.local_at > sa.text("timestamp '2021-11-01'")),
        "btree (state, local_at)",
    ),
    "direction and NULLS": (
        sa.select(User).order_by(User.local_at.desc().nulls_last()).limit(10),
        "btree (local_at DESC NULLS LAST)",
    ),
    "directions that differ": (
        sa.select(User).order_by(User.local_at.desc(), User.nickname).limit(10),
        "btree (local_at DESC, nick)",
    ),
    "NULLS first": (
        sa.select(User).order_by(User.local_at.nulls_first()).limit(10),
        "btree (local_at NULLS FIRST)",
    ),
    "carried": (sa.select(User.points).where(retired), "btree (state) INCLUDE (points)"),
    "partial": (
        sa.select(User).where(User.state != "Active").order_by(User.local_at).limit(10),
        "btree (local_at) WHERE (state <> 'Active'::text)",
    ),
    "attribute named unlike its column": (
        sa.select(User).where(User.nickname == "Nick7"),
        "btree (nick)",
    ),
    "table without a class": (
        sa.select(roles_users).where(roles_users.c.user_id == 7),
        "btree (user_id)",
    ),
    "partitioned, in a schema": (
        sa.select(Order).where(Order.Code == "C7"),
        'btree ("Order Code")',
    ),
    "names in quotes": (
        sa.select(Parcels).where(Parcels.c["The Town"] == "t7").order_by(Parcels.c.code).limit(3),
        'btree ("The Town", "The Code")',
    ),
    "expression after a column": (
        sa.select(Parcels).where(
            Parcels.c["The Town"] == "t7", func.abs(Parcels.c.code) > sa.text("57000")
        ),
        'btree ("The Town", abs("The Code"))',
    ),
}  # fmt: skip


def run_ddl(database, advice):
    database.execute(*advice.ddl)


def run_sqlalchemy(database, advice):
    *lines, last = advice.sqlalchemy.splitlines()
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    names: dict[str, object] = {"engine": engine}
    before = {table: set(table.indexes) for table in Base.metadata.tables.values()}
    exec("\n".join(lines), names)
    index = eval(last, names)
    try:
        made = {one for table in before for one in table.indexes if one not in before[table]} or {
            index
        }
        (index,) = made
        index.create(engine)
    finally:
        for table, indexes in before.items():
            table.indexes.intersection_update(indexes)


def run_alembic(database, advice, direction="upgrade"):
    names: dict[str, object] = {}
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context), context.begin_transaction():
            exec(advice.alembic, names)
            names[direction]()  # type: ignore[operator]


RENDERINGS = {"ddl": run_ddl, "sqlalchemy": run_sqlalchemy, "alembic": run_alembic}


@pytest.mark.parametrize("rendering", first(2, RENDERINGS))
@pytest.mark.parametrize("name", first(3, STATEMENTS))
def test_rendering_resolves_the_finding(fresh_story, watch, name, rendering):
    watched = watch(fresh_story.url)
    (finding,) = watched.ask(STATEMENTS[name])
    RENDERINGS[rendering](fresh_story, finding.advice[0])
    fresh_story.execute("ANALYZE")
    assert watched.ask(STATEMENTS[name]) == []


@pytest.fixture
def parcels(fresh_story):
    """The story's database with a table of 60 000 parcels from 300 towns."""
    fresh_story.execute(
        'CREATE TABLE "Shop"."My Parcels" ("The Town" text, "The Code" int)',
        'INSERT INTO "Shop"."My Parcels" SELECT \'t\' || g % 300, g * 7919 % 60013 '
        "FROM generate_series(1, 60000) g",
        # The rows of the story are visible to all, which only a second look may find.
        'VACUUM ANALYZE "user", "Shop"."My Parcels"',
    )
    return fresh_story


@pytest.mark.parametrize("rendering", RENDERINGS)
@pytest.mark.parametrize("name", first(1, SHAPES))
def test_each_shape_is_what_each_rendering_creates(parcels, watch, name, rendering):
    statement, definition = SHAPES[name]
    watched = watch(parcels.url, PLANWATCH_VERIFY="build")
    finding, *others = watched.ask(statement)
    (advice,) = finding.advice
    assert advice.verdict.status is VerdictStatus.VERIFIED
    assert {other.advice[0].summary for other in others} <= {advice.summary}
    there = "SELECT count(*) FROM pg_index"
    before = parcels.scalar(there)
    RENDERINGS[rendering](parcels, advice)
    assert parcels.scalar(there) > before
    newest = "SELECT max(indexrelid::bigint) FROM pg_index WHERE indrelid = '{}'::regclass"
    oid = parcels.scalar(newest.format(finding.relation))
    assert parcels.scalar(f"SELECT pg_get_indexdef({oid})").endswith(f"USING {definition}")
    assert parcels.scalar(f"SELECT indisvalid FROM pg_index WHERE indexrelid = {oid}")
    parcels.execute("VACUUM ANALYZE")
    assert watched.ask(statement) == []


@pytest.mark.parametrize("rendering", ["ddl", "alembic"])
def test_an_invalid_index_is_mended(fresh_story, watch, rendering):
    fresh_story.execute(
        'CREATE INDEX "Odd One" ON roles_users (user_id)',
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '\"Odd One\"'::regclass",
    )
    watched = watch(fresh_story.url)
    statement = sa.select(roles_users).where(roles_users.c.user_id == 7)
    (finding,) = watched.ask(statement)
    (advice,) = finding.advice
    assert advice.ddl == ('REINDEX INDEX CONCURRENTLY "Odd One"',)
    assert advice.sqlalchemy == ""
    RENDERINGS[rendering](fresh_story, advice)
    assert watched.ask(statement) == []


@pytest.mark.parametrize("name", ["reserved table name", "partitioned, in a schema"])
def test_alembic_downgrade_drops_the_index(fresh_story, watch, name):
    watched = watch(fresh_story.url)
    (finding,) = watched.ask(STATEMENTS[name])
    count = "SELECT count(*) FROM pg_class WHERE relname LIKE 'ix%lower%'"
    run_alembic(fresh_story, finding.advice[0])
    assert fresh_story.scalar(count)
    run_alembic(fresh_story, finding.advice[0], "downgrade")
    assert fresh_story.scalar(count) == 0


def test_partitioned_ddl_locks_out_no_writer(fresh_story, watch):
    watched = watch(fresh_story.url)
    (finding,) = watched.ask(STATEMENTS["partitioned, in a schema"])
    ddl = finding.advice[0].ddl
    assert [re.sub(r"\s+", " ", line) for line in ddl] == [
        'CREATE INDEX ix_order_lower_order_code ON ONLY "Shop"."Order" (lower("Order Code"))',
        'CREATE INDEX CONCURRENTLY ix_order_1_lower_order_code ON "Shop"."Order 1" '
        '(lower("Order Code"))',
        'ALTER INDEX "Shop".ix_order_lower_order_code '
        'ATTACH PARTITION "Shop".ix_order_1_lower_order_code',
        'CREATE INDEX ix_order_2_lower_order_code ON ONLY "Shop".order_2 (lower("Order Code"))',
        'CREATE INDEX CONCURRENTLY ix_order_2a_lower_order_code ON "Shop".order_2a '
        '(lower("Order Code"))',
        'ALTER INDEX "Shop".ix_order_2_lower_order_code '
        'ATTACH PARTITION "Shop".ix_order_2a_lower_order_code',
        'ALTER INDEX "Shop".ix_order_lower_order_code '
        'ATTACH PARTITION "Shop".ix_order_2_lower_order_code',
    ]
    # Another database may have other partitions.
    assert "# The commands name the partitions that this database has." in finding.advice[0].alembic
    assert "name the partitions that this database has" in finding.advice[0].explanation


def test_uses_the_names_of_the_mapped_class(story, watch):
    watched = watch(story.url)
    (finding,) = watched.ask(STATEMENTS["attribute named unlike its column"])
    assert finding.advice[0].sqlalchemy == (
        "from sqlalchemy import Index, func\n"
        "from tests.models import User\n"
        "\n"
        'Index("ix_user_upper_nick", func.upper(User.nickname))'
    )


def test_a_statement_without_any_class_reflects_the_table(fresh_story, watch):
    watched = watch(fresh_story.url)
    fresh_story.execute(
        "CREATE TABLE plain AS SELECT 'A' || g AS name FROM generate_series(1, 5000) g"
    )
    (finding,) = watched.ask(sa.text("SELECT * FROM plain WHERE lower(name) = 'x'"))
    assert "autoload_with=engine" in finding.advice[0].sqlalchemy
    run_sqlalchemy(fresh_story, finding.advice[0])
    assert watched.ask(sa.text("SELECT * FROM plain WHERE lower(name) = 'x'")) == []


@pytest.mark.slow
def test_capitals_and_colons(fresh_story, watch):
    """A function that needs quotes, and a key that would be a parameter of text()."""
    fresh_story.execute(
        "CREATE FUNCTION \"Shout\"(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)'",
        "CREATE TABLE log (id int, data jsonb) PARTITION BY LIST (id)",
        "CREATE TABLE log_1 PARTITION OF log DEFAULT",
        "INSERT INTO log SELECT g, jsonb_build_object(' :k', g) FROM generate_series(1, 5000) g",
        "ANALYZE log",
    )
    watched = watch(fresh_story.url)
    for text, rendering in (
        ("""SELECT * FROM "user" WHERE "Shout"(first) = 'FIRST7'""", "sqlalchemy"),
        ("SELECT * FROM log WHERE data ->> ' \\:k' = '7'", "alembic"),
    ):
        (finding,) = watched.ask(sa.text(text))
        RENDERINGS[rendering](fresh_story, finding.advice[0])
        fresh_story.execute("ANALYZE")
        assert watched.ask(sa.text(text)) == []


def test_a_class_that_cannot_be_imported_is_not_named(fresh_story, watch):
    class Local(DeclarativeBase):
        pass

    class Account(Local):
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    fresh_story.execute(
        "CREATE TABLE account AS SELECT g AS id, 'A' || g AS name FROM generate_series(1, 5000) g"
    )
    watched = watch(fresh_story.url)
    (finding,) = watched.ask(sa.select(Account).where(func.lower(Account.name) == "x"))
    assert "<locals>" not in finding.advice[0].sqlalchemy
    run_sqlalchemy(fresh_story, finding.advice[0])


@pytest.mark.slow
def test_two_expressions_never_share_a_name(fresh_story, watch):
    watched, created = watch(fresh_story.url), []
    for expression in (User.points + 1, User.points * 2):
        (finding,) = watched.ask(sa.select(User).where(expression == 7))
        created.append(finding.advice[0].summary)
        fresh_story.execute(*finding.advice[0].ddl, "ANALYZE")
        watched.planwatch.clear()
    assert len({summary.split()[3] for summary in created}) == 2


def test_a_taken_name_is_avoided(fresh_story, watch):
    fresh_story.execute('CREATE INDEX ix_user_lower_email ON "user" (points)')
    watched = watch(fresh_story.url)
    (finding,) = watched.ask(STATEMENTS["reserved table name"])
    assert " ix_user_lower_email_2 " in finding.advice[0].summary


def relation(name: str) -> Relation:
    return Relation(
        key=f"public.{name}", schema="public", name=name, display=name, quoted_name=name,
        kind="r", rows=0, root=f"public.{name}",
    )  # fmt: skip


@pytest.mark.parametrize("table", ["t" * 63, "ü" * 31, "Ordner mit Leerzeichen", '"'])
def test_names_fit_and_collide_with_nothing(table):
    first = index_name(relation(table), "lower(a_rather_long_column_name)", frozenset())
    second = index_name(relation(table), "lower(a_rather_long_column_name)", frozenset({first}))
    assert first != second
    assert len(first.encode()) <= MAX_NAME_BYTES
    assert len(second.encode()) <= MAX_NAME_BYTES


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('"then"', '"when"'),
        ('lower("from")', 'lower("for")'),
        ('"1"', '"2"'),
        ("TRIM(LEADING FROM a)", "TRIM(TRAILING FROM a)"),
        ("TRIM(BOTH FROM a)", "TRIM(LEADING FROM a)"),
    ],
)
def test_indexes_on_names_that_are_keywords_have_names_of_their_own(first, second):
    """Both may be advised before either is created."""
    names = [index_name(relation("kw"), text, frozenset()) for text in (first, second)]
    assert names[0] != names[1]


def test_a_quoted_name_is_in_the_name_and_a_keyword_is_not():
    assert index_name(relation("kw"), 'lower("from")', frozenset()) == "ix_kw_lower_from"
    assert index_name(relation("kw"), "TRIM(BOTH FROM a)", frozenset()) == "ix_kw_trim_a"

"""missing-index: columns are searched, joined or sorted by, and no index leads with them."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.orm import aliased

from flask_planwatch import VerdictStatus

from ..models import Badge, Order, User, roles_users
from .case import (
    USERS,
    Case,
    Example,
    Rule,
    followed,
    on_first_server,
    rows,
    silent,
    speaks,
    with_settings,
)
from .rule_in_app import inspections, run

RULE = Rule("missing-index", USERS, settings={"PLANWATCH_VERIFY": "build"})

#: The statement on the page of the rule.
EXAMPLE = Example("select(roles_users).where(roles_users.c.user_id == 7)")

Other = aliased(User)

a_role = roles_users.c.user_id == 7

SPEAKS = [
    speaks(
        "equality",
        sa.select(User).where(User.first == "First7"),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "attribute named unlike its column",
        sa.select(User).where(User.nickname == "Nick7"),
        about='nick on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_nick ON "user" (nick)',
        proof=(
            "nick was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_nick on "user"',
        ),
    ),
    speaks(
        "the value comes first",
        sa.select(User).where(sa.literal("First7") == User.first),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "in list",
        sa.select(User).where(User.first.in_(["First7", "First8"])),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "range",
        sa.select(User).where(User.local_at < sa.text("timestamp '2020-01-03'")),
        about='local_at on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_local_at ON "user" (local_at)',
        proof=(
            "local_at was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_local_at on "user"',
        ),
    ),
    speaks(
        "range with both ends",
        sa.select(User).where(User.first.between("First7000", "First7003")),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "the column is NULL",
        sa.select(roles_users).where(roles_users.c.label.is_(None)),
        about="label on roles_users",
        fix="CREATE INDEX CONCURRENTLY ix_roles_users_label ON roles_users (label)",
        proof="Seq Scan on roles_users became Index Scan using ix_roles_users_label on roles_users",
    ),
    speaks(
        "a rare value of few",
        sa.select(User).where(User.mood == "sad"),
        about='mood on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_mood ON "user" (mood)',
        proof=(
            "mood was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_mood on "user"',
        ),
    ),
    speaks(
        "table without a class",
        sa.select(roles_users).where(a_role),
        about="user_id on roles_users",
        fix="CREATE INDEX CONCURRENTLY ix_roles_users_user_id ON roles_users (user_id)",
        proof=(
            "user_id was tested row by row and is now an index condition",
            "Seq Scan on roles_users became Index Scan using ix_roles_users_user_id on roles_users",
        ),
    ),
    speaks(
        "alternatives on one column",
        sa.select(User).where(sa.or_(User.first == "First7", User.first == "First9")),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        # PostgreSQL 18 makes one condition of both.
        proof=(
            "first was tested row by row and is now an index condition"
            ' | Seq Scan on "user" became Bitmap Heap Scan on "user"',
            "…",
        ),
    ),
    speaks(
        "first() adds a limit",
        sa.select(User).where(User.first == "First99999").limit(1),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "count",
        sa.select(func.count()).where(User.first == "First7"),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Only Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "join from a few rows",
        sa.select(User.email, roles_users.c.label)
        .join(roles_users, roles_users.c.user_id == User.id)
        .where(User.email == "User7@Example.com"),
        about="user_id on roles_users",
        fix=(
            "CREATE INDEX CONCURRENTLY ix_roles_users_user_id ON roles_users (user_id)",
            # It may be told to read the other table's columns from an index as well.
            "…",
        ),
        proof=(
            "user_id was tested row by row and is now an index condition",
            "Seq Scan on roles_users became Index Scan using ix_roles_users_user_id on roles_users",
        ),
    ),
    speaks(
        "EXISTS",
        sa.select(User.id).where(User.id < 5, sa.exists().where(roles_users.c.user_id == User.id)),
        about="user_id on roles_users",
        fix="CREATE INDEX CONCURRENTLY ix_roles_users_user_id ON roles_users (user_id)",
        proof=(
            "user_id was tested row by row and is now an index condition",
            "Seq Scan on roles_users became Index Only Scan using ix_roles_users_user_id "
            "on roles_users",
        ),
    ),
    speaks(
        "IN with a sub-query",
        sa.select(User.email).where(
            User.id.in_(sa.select(roles_users.c.user_id).where(roles_users.c.label == "Role7"))
        ),
        about="label on roles_users",
        # Whether user_id beside it pays is a near tie.
        fix="CREATE INDEX CONCURRENTLY ix_roles_users_label… ON roles_users (label…)",
        proof=(
            "label was tested row by row and is now an index condition",
            "Seq Scan on roles_users became Index …Scan using ix_roles_users_label… on roles_users",
        ),
    ),
    speaks(
        "correlated sub-query",
        sa.select(
            User.id,
            sa.select(func.count()).where(roles_users.c.user_id == User.id).scalar_subquery(),
        ).where(User.id < 4),
        about="user_id on roles_users",
        fix="CREATE INDEX CONCURRENTLY ix_roles_users_user_id ON roles_users (user_id)",
        proof=(
            "user_id was tested row by row and is now an index condition",
            "Seq Scan on roles_users became Index Only Scan using ix_roles_users_user_id "
            "on roles_users",
        ),
    ),
    speaks(
        "CTE that is looked into",
        sa.select(sa.select(User).where(User.first == "First7").cte("some")),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "part of a UNION",
        sa.union_all(
            sa.select(User.id).where(User.id == 7), sa.select(User.id).where(User.last == "Last7")
        ),
        about='last on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_last ON "user" (last)',
        proof=(
            "last was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_last on "user"',
        ),
    ),
    speaks(
        "locked rows",
        sa.select(User).where(User.first == "First7").with_for_update(),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "alias",
        sa.select(Other).where(Other.first == "First7"),
        about='first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
        proof=(
            "first was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
        ),
    ),
    speaks(
        "latest rows",
        sa.select(User).order_by(User.local_at.desc()).limit(10),
        about='local_at on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_local_at ON "user" (local_at)',
        proof=(
            "the rows come from the index in the order that is asked for, without a Sort",
            '…Seq Scan on "user" became Index Scan using ix_user_local_at on "user"',
        ),
    ),
    speaks(
        "latest rows, those without a time last",
        sa.select(User).order_by(User.local_at.desc().nulls_last()).limit(10),
        about='local_at on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_local_at_desc_nulls_last ON "user" '
        "(local_at DESC NULLS LAST)",
        proof=(
            "the rows come from the index in the order that is asked for, without a Sort",
            '…Seq Scan on "user" became Index Scan using '
            'ix_user_local_at_desc_nulls_last on "user"',
        ),
    ),
    speaks(
        "two orders, one of them backward",
        sa.select(User).order_by(User.local_at.desc(), User.first).limit(10),
        about='local_at, first on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_local_at_desc_first ON "user" (local_at '
        "DESC, first)",
        proof=(
            "the rows come from the index in the order that is asked for, without a Sort",
            '…Seq Scan on "user" became Index Scan using ix_user_local_at_desc_first on "user"',
        ),
    ),
    speaks(
        "two orders, both backward",
        sa.select(User).order_by(User.local_at.desc(), User.id.desc()).limit(10),
        about='local_at, id on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_local_at_id ON "user" (local_at, id)',
        proof=(
            "the rows come from the index in the order that is asked for, without a Sort",
            '…Seq Scan on "user" became Index Scan using ix_user_local_at_id on "user"',
        ),
    ),
    speaks(
        "keyset pagination",
        sa.select(User)
        .where(sa.tuple_(User.local_at, User.id) < sa.text("(timestamp '2020-03-01', 5)"))
        .order_by(User.local_at.desc(), User.id.desc())
        .limit(10),
        about='local_at, id on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_local_at_id ON "user" (local_at, id)',
        proof=(
            "the rows come from the index in the order that is asked for, without a Sort",
            'Seq Scan on "user" became Index Scan using ix_user_local_at_id on "user"',
        ),
    ),
    speaks(
        "partitions",
        sa.select(Order).where(Order.Code == "C7"),
        about='"Order Code" on "Shop"."Order"',
        fix='CREATE INDEX ix_order_order_code ON ONLY "Shop"."Order" ("Order Code"); '
        'CREATE INDEX CONCURRENTLY ix_order_1_order_code ON "Shop"."Order 1" ("Order '
        'Code"); ALTER INDEX "Shop".ix_order_order_code ATTACH PARTITION '
        '"Shop".ix_order_1_order_code; CREATE INDEX ix_order_2_order_code ON ONLY '
        '"Shop".order_2 ("Order Code"); CREATE INDEX CONCURRENTLY '
        'ix_order_2a_order_code ON "Shop".order_2a ("Order Code"); ALTER INDEX '
        '"Shop".ix_order_2_order_code ATTACH PARTITION "Shop".ix_order_2a_order_code; '
        'ALTER INDEX "Shop".ix_order_order_code ATTACH PARTITION '
        '"Shop".ix_order_2_order_code',
        proof=(
            '"Order Code" was tested row by row and is now an index condition',
            'Seq Scan on "Order 1" became Index Scan using ix_order_order_code on "Order 1"',
        ),
    ),
]

MEASURED = [
    speaks(
        "equality first, then the range",
        sa.select(User).where(
            User.state == "Retired", User.local_at > sa.text("timestamp '2021-11-01'")
        ),
        about='state, local_at on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_state_local_at ON "user" (state, local_at)',
        proof=(
            "state and local_at became index conditions",
            'Seq Scan on "user" became Index Scan using ix_user_state_local_at on "user"',
        ),
        saves=2,
    ),
    speaks(
        "equality first, then the order",
        sa.select(User).where(User.mood == "sad").order_by(User.local_at.desc()).limit(10),
        about='mood, local_at on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_mood_local_at ON "user" (mood, local_at)',
        proof=(
            "mood became an index condition",
            "the rows come from the index in the order that is asked for, without a Sort",
            'Seq Scan on "user" became Index Scan using ix_user_mood_local_at on "user"',
        ),
        saves=2,
    ),
    speaks(
        "the narrower of two equalities alone",
        sa.select(User).where(User.first == "First7", User.last == "Last7"),
        about='first, last on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first) | '
        'CREATE INDEX CONCURRENTLY ix_user_last ON "user" (last)',
        proof=(
            "first became an index condition | last became an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_… on "user"',
        ),
        saves=2,
    ),
    speaks(
        "a partial index where no other kind serves",
        sa.select(User).where(User.state != "Active").order_by(User.local_at).limit(10),
        about='local_at on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_local_at_partial_628e78 ON "user" '
        "(local_at) WHERE state <> 'Active'",
        proof=(
            "the rows come from the index in the order that is asked for, without a Sort",
            'Seq Scan on "user" became Index Scan using ix_user_local_at_partial_628e78 on "user"',
        ),
        saves=2,
    ),
    speaks(
        "all that is read",
        sa.select(User.points).where(User.state == "Retired"),
        about='state on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_state_with_points ON "user" (state) INCLUDE '
        "(points)",
        proof=(
            "state was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Only Scan using ix_user_state_with_points on "user"',
        ),
        saves=2,
    ),
    speaks(
        "not a text that may be long",
        sa.select(User.last).where(User.state == "Retired"),
        about='state on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_state ON "user" (state)',
        proof=(
            "state was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_state on "user"',
        ),
        saves=2,
    ),
    speaks(
        "greatest value",
        sa.select(func.max(User.local_at)),
        about='local_at on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_local_at ON "user" (local_at)',
        proof='Seq Scan on "user" became Index Only Scan using ix_user_local_at on "user"',
        saves=2,
    ),
]

SILENT = [
    silent(
        "primary key",
        sa.select(User).where(User.id == 7),
    ),
    silent(
        "unique column",
        sa.select(User).where(User.email == "User7@Example.com"),
    ),
    silent(
        "range of a column with an index",
        sa.select(User).where(User.points.between(5, 9)),
    ),
    silent(
        "few rows found by another index",
        sa.select(User).where(User.id == 7, User.first == "x"),
    ),
    silent(
        "unequal",
        sa.select(User.id).where(User.first != "First7"),
    ),
    silent(
        "most of the rows pass",
        sa.select(User.id, User.first).where(User.state == "Active"),
    ),
    silent(
        "nearly all rows pass a range",
        sa.select(User.id, User.first).where(User.last > "L"),
    ),
    silent(
        "not null",
        sa.select(User.id, User.first).where(User.last.is_not(None)),
    ),
    silent(
        "limit without an order",
        sa.select(User).limit(10),
    ),
    silent(
        "limit and offset without an order",
        sa.select(User).limit(10).offset(50),
    ),
    silent(
        "limit that is reached early",
        sa.select(User).where(User.state == "Active").limit(3),
    ),
    silent(
        "order by the primary key",
        sa.select(User).order_by(User.id.desc()).limit(10),
    ),
    silent(
        "order by a column with an index",
        sa.select(User).order_by(User.created_at.desc()).limit(10),
    ),
    silent(
        "order by chance",
        sa.select(User).where(User.id < 100).order_by(func.random()).limit(3),
    ),
    silent(
        "keyset pagination by the primary key",
        sa.select(User).where(User.id > 500).order_by(User.id).limit(10),
    ),
    silent(
        "whole table",
        sa.select(User.id),
    ),
    silent(
        "count of all",
        sa.select(func.count()).select_from(User),
    ),
    silent(
        "small table",
        sa.select(Badge).where(Badge.owner == "Owner7"),
    ),
    silent(
        "small table in order",
        sa.select(Badge).order_by(Badge.owner).limit(3),
    ),
    silent(
        "join by primary keys",
        sa.select(User.id, Other.email).join(Other, Other.id == User.id).where(User.id < 20),
    ),
    silent(
        "join of everything",
        sa.select(User.first, roles_users.c.label).join(
            roles_users, roles_users.c.user_id == User.id
        ),
    ),
    silent(
        "join to a primary key",
        sa.select(Badge.id, User.email).join(User, User.id == Badge.id),
    ),
    silent(
        "outer join of everything",
        sa.select(User.id, roles_users.c.label).outerjoin(
            roles_users, roles_users.c.user_id == User.id
        ),
    ),
    silent(
        "two columns compared with each other",
        sa.select(User.id).where(User.first == User.last),
    ),
    silent(
        "no row can match",
        sa.select(User).where(User.first == "x", sa.false()),
    ),
    silent(
        "catalog",
        sa.text("SELECT 1 FROM pg_class WHERE relpages = 7"),
    ),
    silent(
        "information schema",
        sa.text("SELECT 1 FROM information_schema.columns WHERE column_name = 'first'"),
    ),
    silent(
        "function that returns rows",
        sa.text("SELECT g FROM generate_series(1, 50000) g WHERE g = 7"),
    ),
    silent(
        "values",
        sa.text("SELECT x FROM (VALUES (1), (2)) v (x) WHERE x = 2"),
    ),
    silent(
        "materialised CTE",
        sa.text(
            'WITH all_users AS MATERIALIZED (SELECT id, first FROM "user") '
            "SELECT id FROM all_users WHERE first = 'First7'"
        ),
    ),
    silent(
        "sample",
        sa.text("SELECT id FROM \"user\" TABLESAMPLE SYSTEM (50) WHERE first = 'First7'"),
    ),
    silent(
        "row by its place",
        sa.text("SELECT id FROM \"user\" WHERE ctid = '(0,1)'"),
    ),
    silent(
        "system column",
        sa.text('SELECT id FROM "user" WHERE xmin = 7'),
    ),
]


#: Statements that change rows.
CHANGES = [
    speaks(
        "update",
        sa.update(roles_users).values(label="x").where(roles_users.c.label == "nobody"),
        about="label on roles_users",
    ),
    speaks("delete", sa.delete(roles_users).where(a_role), about="user_id on roles_users"),
    speaks(
        "insert from a SELECT",
        sa.insert(roles_users).from_select(
            ["user_id", "label"], sa.select(User.id, User.first).where(User.first == "nobody")
        ),
        about='first on "user"',
    ),
]

INVALID = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass"

#: Tables of other sorts, or in another state, and what is said of them.
DETAILS = [
    speaks(
        "an invalid index is named",
        sa.select(roles_users).where(a_role),
        setup=("CREATE INDEX broken ON roles_users (user_id)", INVALID),
        problem="The index broken exists but is invalid",
        fix="REINDEX INDEX CONCURRENTLY broken",
    ),
    speaks(
        "a table that was never analysed",
        sa.text("SELECT * FROM fresh WHERE name = 'A7'"),
        setup=(
            "CREATE TABLE fresh (name text) WITH (autovacuum_enabled = off)",
            "INSERT INTO fresh SELECT 'A' || g FROM generate_series(1, 50000) g",
        ),
        problem="PostgreSQL has no statistics of the table, so its estimates are guesses",
        fix="CREATE INDEX CONCURRENTLY ix_fresh_name ON fresh (name)",
    ),
    speaks(
        "a small table in growth mode",
        sa.select(Badge).where(Badge.owner == "Owner7"),
        severity="info",
        fix="CREATE INDEX CONCURRENTLY ix_badge_owner ON badge (owner)",
        PLANWATCH_GROWTH=True,
    ),
    # The planner assumes ten pages of the first one, and no row of the second.
    speaks(
        "a table without a row that was never analysed, in growth mode",
        sa.text("SELECT * FROM bare WHERE made = '2020-01-01'"),
        setup="CREATE TABLE bare (id int PRIMARY KEY, made timestamp, note text)",
        severity="info",
        fix="CREATE INDEX CONCURRENTLY ix_bare_made ON bare (made)",
        PLANWATCH_GROWTH=True,
    ),
    speaks(
        "a table without a row in growth mode",
        sa.text("SELECT * FROM bare WHERE made = '2020-01-01'"),
        setup=(
            "CREATE TABLE bare (id int PRIMARY KEY, made timestamp, note text)",
            "VACUUM ANALYZE bare",
        ),
        severity="info",
        fix="CREATE INDEX CONCURRENTLY ix_bare_made ON bare (made)",
        PLANWATCH_GROWTH=True,
    ),
]

GROWTH_WITH_AN_INDEX = silent(
    "a small table with an index in growth mode",
    sa.select(Badge).where(Badge.owner == "Owner7"),
    setup=("CREATE INDEX ON badge (owner, id)",),
    PLANWATCH_GROWTH=True,
)

GROWTH_BESIDE_MORE_ROWS = speaks(
    "a small table beside one of some hundred times its rows in growth mode",
    sa.select(sa.func.count())
    .select_from(User)
    .join(Badge, Badge.id == User.id)
    .where(Badge.owner == "Owner7"),
    about="owner on badge",
    severity="info",
    setup=(
        "INSERT INTO badge SELECT g, 'Owner' || g FROM generate_series(1001, 1400) g",
        "ANALYZE badge",
    ),
    PLANWATCH_GROWTH=True,
)

OUTGROWN = silent(
    "a small table beside one of thousands of times its rows in growth mode",
    GROWTH_BESIDE_MORE_ROWS.statement,
    reason="it has only 40 rows, and did not grow with the 100,000 rows beside it",
    PLANWATCH_GROWTH=True,
)

TEXT_USER_ID = "ALTER TABLE roles_users ALTER user_id TYPE text"


def not_named(index: str) -> Case:
    """Say that an invalid index would not serve, so that nobody is asked to mend it."""
    return speaks(
        f"an invalid index {index}",
        sa.text("SELECT * FROM roles_users WHERE user_id > '99998'"),
        setup=(
            TEXT_USER_ID,
            f"CREATE INDEX broken ON roles_users {index}",
            INVALID,
            "ANALYZE roles_users",
        ),
        fix="CREATE INDEX CONCURRENTLY ix_roles_users_user_id ON roles_users (user_id)",
    )


#: Tables that no model knows, and the one whose index is missing.
OTHER_TABLES = [
    *map(
        not_named,
        ["(user_id) WHERE label = 'x'", "(user_id text_pattern_ops)", "USING brin (user_id)"],
    ),
    speaks(
        "children by inheritance are tables of their own",
        sa.text("SELECT * FROM animal WHERE name = 'N7'"),
        setup=(
            "CREATE TABLE animal (id int, name text)",
            "CREATE TABLE dog () INHERITS (animal)",
            "INSERT INTO dog SELECT g, 'N' || g FROM generate_series(1, 50000) g",
            "VACUUM ANALYZE animal, dog",
        ),
        about="name on dog",
    ),
    speaks(
        "an unlogged table",
        sa.text("SELECT id FROM loose WHERE first = 'First7'"),
        setup=(
            'CREATE UNLOGGED TABLE loose AS SELECT id, first FROM "user"',
            "VACUUM ANALYZE loose",
        ),
        about="first on loose",
    ),
    speaks(
        "a materialised view",
        sa.text("SELECT id FROM copied WHERE first = 'First7'"),
        setup=(
            'CREATE MATERIALIZED VIEW copied AS SELECT id, first FROM "user"',
            "VACUUM ANALYZE copied",
        ),
        about="first on copied",
    ),
    speaks(
        "a view",
        sa.text("SELECT id FROM seen WHERE first = 'First7'"),
        setup=('CREATE VIEW seen AS SELECT id, first FROM "user" WHERE id > 0',),
        about='first, id on "user"',
    ),
]


@rows(SPEAKS, quick=16)
def test_speaks(rule, case):
    rule.check(case)


@rows(with_settings(SPEAKS, PLANWATCH_VERIFY="auto"), quick=0)
def test_speaks_alike_where_nothing_is_built(rule, case):
    rule.check(case)


@rows(followed(SPEAKS), quick=4)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(SILENT)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(with_settings(SILENT, PLANWATCH_VERIFY="auto"), quick=0)
def test_stays_silent_where_nothing_is_built(rule, case):
    rule.check(case)


@rows(MEASURED, quick=2)
def test_the_planner_chooses_the_shape(rule, case):
    rule.check_fix(case)


@rows(CHANGES)
def test_speaks_of_changes(rule, case):
    rule.check(case)


@rows(with_settings(CHANGES, PLANWATCH_VERIFY="auto"), quick=0)
def test_speaks_of_changes_where_nothing_is_built(rule, case):
    rule.check(case)


@rows(DETAILS)
def test_speaks_in_detail(rule, case):
    rule.check(case)


@rows(with_settings(DETAILS, PLANWATCH_VERIFY="auto"), quick=0)
def test_speaks_in_detail_where_nothing_is_built(rule, case):
    rule.check(case)


@rows(DETAILS[:1])
def test_falls_silent_once_an_invalid_index_is_built_again(rule, case):
    rule.check_fix(case)


@rows([GROWTH_BESIDE_MORE_ROWS])
def test_growth_speaks_of_a_table_that_may_grow(rule, case):
    rule.check(case)


@rows([OUTGROWN])
def test_growth_is_silent_about_a_table_that_stays_small(rule, case):
    rule.check(case)


@rows([GROWTH_WITH_AN_INDEX])
def test_growth_is_silent_where_an_index_exists(rule, case):
    rule.check(case)


@on_first_server
@rows(OTHER_TABLES, quick=4)
def test_speaks_of_other_tables(rule, case):
    assert "broken" not in rule.check(case).message


@on_first_server
def test_a_temporary_table_has_no_advice(rule):
    app = rule.app()
    with app.app.app_context(), inspections(app) as seen:
        for text in (
            'CREATE TEMPORARY TABLE passing AS SELECT id, first FROM "user"',
            "SELECT id FROM passing WHERE first = 'First7'",
        ):
            app.db.session.execute(sa.text(text))
        app.db.session.rollback()
        assert app.findings() == []
    assert seen[-1].skip is not None


def test_a_trial_gathers_no_statistics_of_a_table_without_any(rule):
    database = rule.copy()
    database.execute(*DETAILS[1].setup)
    (finding,) = rule.ask(rule.app(database), DETAILS[1].statement)
    assert "expression" not in str(finding.advice[0].verdict)
    assert database.scalar("SELECT count(*) FROM pg_stats WHERE tablename = 'fresh'") == 0


@pytest.mark.slow
def test_an_index_that_saves_too_little_is_dismissed(rule):
    """Sorting all rows costs a little more than walking an index: not a fifth."""
    app = rule.app()
    half = sa.select(User).where(User.local_at < sa.text("timestamp '2021-01-01'"))
    with inspections(app) as seen:
        assert rule.ask(app, half) == []
    (dismissal,) = seen[0].dismissals
    assert dismissal.rule == "missing-index"
    if dismissal.rejected is not None:
        assert dismissal.rejected.verdict.status is VerdictStatus.REJECTED
        assert "lowers the cost of the statement by" in dismissal.reason


PARTIAL = sa.select(User).where(User.state != "Active").order_by(User.local_at).limit(10)


def test_a_value_of_a_partial_index_stays_in_the_process(rule, caplog):
    (finding,) = rule.ask(rule.app(), PARTIAL)
    (advice,) = finding.advice
    assert "'Active'" in advice.ddl[0]
    assert advice.summary.endswith("(local_at) WHERE state <> :state_1")
    shown = [finding.message, advice.summary, str(advice.as_dict()), str(finding.evidence)]
    assert not [text for text in [*shown, caplog.text] if "Active" in text]
    assert ":state_1" in finding.message


def test_a_value_is_shown_if_asked_for(rule, caplog):
    (finding,) = rule.ask(rule.app(PLANWATCH_SHOW_PARAMETERS=True), PARTIAL)
    assert "state <> 'Active'" in finding.message
    assert "state <> 'Active'" in finding.advice[0].as_dict()["summary"]
    assert "state <> 'Active'" in caplog.text


@pytest.mark.slow
def test_an_or_of_values_is_told_once_however_long(rule, caplog):
    app = rule.app()
    for length in range(1, 6):
        wanted = sa.or_(*[User.last == f"Last{length}{place}" for place in range(length)])
        (finding,) = rule.ask(app, sa.select(User).where(wanted))
        assert finding.advice[0].summary.endswith("(last)"), length
    told = [one for one in caplog.records if one.levelname == "WARNING"]
    assert len(told) == 1


def test_resolution_is_said_once(rule, caplog):
    caplog.set_level("INFO", logger="flask_planwatch")
    database = rule.copy()
    app = rule.app(database)
    statement = sa.select(User).where(User.first == "First7")
    (finding,) = rule.ask(app, statement)
    database.execute(*finding.advice[0].ddl)
    caplog.clear()
    assert rule.ask(app, statement) == []
    assert rule.ask(app, statement) == []
    said = [record for record in caplog.records if "resolved" in record.getMessage()]
    assert [record.levelname for record in said] == ["INFO"]


@pytest.mark.slow
@on_first_server
def test_an_index_for_two_findings_of_one_statement(rule):
    statement = sa.select(User.id).where(
        func.lower(User.state) == "retired", User.local_at > sa.text("timestamp '2021-11-01'")
    )
    database = rule.copy()
    app = rule.app(database)
    run(app, statement)
    findings = app.findings()
    summaries = {advice.summary for finding in findings for advice in finding.advice}
    assert len(summaries) == 1, summaries
    database.execute(*findings[0].advice[0].ddl, "ANALYZE")
    assert rule.ask(app, statement) == []


@on_first_server
def test_an_index_of_another_statement_that_serves_much_worse(rule):
    """The rare moods lie in a row: an index on them alone reads them in that order."""
    app = rule.app()
    rare = sa.select(User).where(User.mood == "sad")
    (first,) = rule.ask(app, rare.order_by(User.local_at.desc()).limit(10))
    second = next(
        finding for finding in rule.ask(app, rare) if finding.fingerprint != first.fingerprint
    )
    assert first.advice[0].summary.endswith("(mood, local_at)")
    assert second.advice[0].summary.endswith("(mood)")

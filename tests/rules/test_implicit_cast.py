"""implicit-cast speaks where a value's type casts the column, and on nothing that looks alike."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import CIDR, CITEXT
from sqlalchemy.orm import aliased

from flask_planwatch import AdviceKind, Severity, VerdictStatus
from flask_planwatch.plan.usage import cast_in_statement
from flask_planwatch.rules import implicit_cast, worth
from flask_planwatch.rules.functional_predicate import NAME as FUNCTIONAL

from ..models import Badge, Order, User, roles_users

#: A table with columns of many types, and rows enough for an index on each.
ledger = sa.Table(
    "ledger",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("ref", sa.Numeric, index=True),
    sa.Column("half", sa.SmallInteger, index=True),
    sa.Column("ratio", sa.Double, index=True),
    sa.Column("part", sa.REAL, index=True),
    sa.Column("email", CITEXT, index=True),
    sa.Column("code", sa.CHAR(8), index=True),
    sa.Column("label", sa.String(20), index=True),
    sa.Column("note", sa.String(20)),
    sa.Column("net", CIDR, index=True),
    sa.Column("opens", sa.Time, index=True),
    sa.Column("day", sa.Date, index=True),
    sa.Column("local_at", sa.DateTime, index=True),
    sa.Column("exact_at", sa.DateTime(timezone=True), index=True),
)

ROWS = """
INSERT INTO ledger SELECT g, g, g % 2, g, g, 'U' || g || '@x.org', 'C' || g, 'L' || g, 'N' || g,
    ('10.' || g / 65536 || '.' || g / 256 % 256 || '.' || g % 256)::cidr,
    time '00:00' + g * interval '1 second', date '1900-01-01' + g,
    timestamp '2020-01-01' + g * interval '1 minute',
    timestamptz '2020-01-01 00:00+00' + g * interval '1 minute'
FROM generate_series(1, 60000) g
"""

#: The same table as an app may have declared it, in types that are not quite the columns'.
declared = sa.table(
    "ledger",
    sa.column("id", sa.BigInteger),
    sa.column("email", sa.String),
    sa.column("ref", sa.Float),
)

NOON = datetime.datetime(2020, 1, 3, 12)
NOON_UTC = NOON.replace(tzinfo=datetime.UTC)

Other = aliased(User)
L = ledger.c

NUMERIC, DOUBLE = "({})::numeric", "({})::double precision"


@pytest.fixture(scope="module")
def ledger_story(each_story):
    """The story with the table above, on each server in turn."""
    each_story.execute("CREATE EXTENSION citext")
    engine = sa.create_engine(each_story.url, poolclass=sa.NullPool)
    ledger.metadata.create_all(engine)
    each_story.execute(ROWS, "VACUUM ANALYZE ledger")
    return each_story


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request):
    return request.param


@pytest.fixture
def watched(ledger_story, driver, watch):
    """An app on each server in turn, through each driver."""
    return watch(ledger_story.url_for(driver))


def both(subject: str) -> dict[str, str]:
    return {"psycopg2": subject, "psycopg": subject}


def by_rule(name: str, findings: list) -> list:
    return [finding for finding in findings if finding.rule == name]


def number(column: str) -> dict[str, str]:
    """What a float makes of an integer column: psycopg2 writes it as a literal, a numeric."""
    return {"psycopg2": NUMERIC.format(column), "psycopg": DOUBLE.format(column)}


#: Statements that must be found: the casts that each driver provokes, if it does, the summary of
#: the advice and its code.
SPEAKS = {
    "Decimal against integer": (
        sa.select(User.id).where(User.points == Decimal("7.00")),
        both(NUMERIC.format("points")),
        'compare "user".points as integer: pass an int, not a Decimal',
        ".where(User.points == int(value))",
    ),
    "float against bigint": (
        sa.select(User.id).where(User.id == 7.0),
        number("id"),
        'compare "user".id as bigint: pass an int, not a float',
        ".where(User.id == int(value))",
    ),
    "float against smallint and more": (
        sa.select(L.id).where(L.half == 7.0, L.ref >= 3),
        number("half"),
        "compare ledger.half as smallint: pass an int, not a float",
        ".where(ledger.c.half == int(value))",
    ),
    "in list": (
        sa.select(User.id).where(User.points.in_([Decimal("7.00"), Decimal("8.00")])),
        both(NUMERIC.format("points")),
        'compare "user".points as integer: pass an int, not a Decimal',
        ".where(User.points.in_([int(value) for value in values]))",
    ),
    "range": (
        sa.select(User.id).where(User.points > 99_990.5),
        number("points"),
        'compare "user".points as integer: pass an int, not a float',
        ".where(User.points > math.floor(value))",
    ),
    "range with both ends": (
        sa.select(User.id).where(User.points.between(7.5, 9.5)),
        number("points"),
        'compare "user".points as integer: pass an int, not a float',
        ".where(User.points >= math.ceil(value), User.points <= math.floor(value))",
    ),
    "sides exchanged": (
        sa.select(User.id).where(sa.literal(7.5) > User.points),
        number("points"),
        'compare "user".points as integer: pass an int, not a float',
        ".where(User.points < math.ceil(value))",
    ),
    "number as text": (
        sa.select(User.id).where(sa.cast(User.points, sa.Text) == "7"),
        both("(points)::text"),
        'compare "user".points as integer: pass an int, not a str, and leave out the cast',
        ".where(User.points == int(value))",
    ),
    "number as string": (
        sa.select(User.id).where(sa.cast(User.points, sa.String) == "7"),
        both("((points)::character varying)::text"),
        'compare "user".points as integer: pass an int, not a str, and leave out the cast',
        ".where(User.points == int(value))",
    ),
    "number as a string with a length": (
        sa.select(User.id).where(sa.cast(User.id, sa.String(20)).in_(["7", "8"])),
        both("((id)::character varying(20))::text"),
        'compare "user".id as bigint: pass an int, not a str, and leave out the cast',
        ".where(User.id.in_([int(value) for value in values]))",
    ),
    "numeric as text": (
        sa.select(L.id).where(sa.cast(L.ref, sa.Text) == "7"),
        both("(ref)::text"),
        "compare ledger.ref as numeric: pass a Decimal, not a str, and leave out the cast",
        ".where(ledger.c.ref == Decimal(value))",
    ),
    "float against numeric": (
        sa.select(L.id).where(L.ref == 7.0),
        {"psycopg": DOUBLE.format("ref")},
        "compare ledger.ref as numeric: pass a Decimal, not a float",
        ".where(ledger.c.ref == Decimal(str(value)))",
    ),
    "citext declared as String": (
        sa.select(declared.c.id).where(declared.c.email == "u7@x.org"),
        {"psycopg": "(email)::text"},
        "compare ledger.email as citext: declare the column as CITEXT, or the value",
        ".where(ledger.c.email == literal(value, CITEXT))",
    ),
    "text against char": (
        sa.select(L.id).where(L.code == sa.cast(sa.literal("C7"), sa.Text)),
        both("(code)::text"),
        "compare ledger.code as character(8): declare the column as String, or the value",
        ".where(ledger.c.code == literal(value, String))",
    ),
    "char against varchar": (
        sa.select(L.id).where(L.label == sa.cast(sa.literal("L7"), sa.CHAR(8))),
        both("(label)::bpchar"),
        "compare ledger.label as character varying(20): declare the column as String, or the value",
        ".where(ledger.c.label == literal(value, String))",
    ),
    "timedelta against time": (
        sa.select(L.id).where(L.opens == sa.literal(datetime.timedelta(seconds=7))),
        both("(opens)::interval"),
        "compare ledger.opens as time without time zone: pass a time, not a timedelta",
        ".where(ledger.c.opens == time(…))",
    ),
    "time with a zone against time": (
        sa.select(L.id).where(L.opens == sa.literal(NOON_UTC.timetz(), sa.Time(timezone=True))),
        both("(opens)::time with time zone"),
        "compare ledger.opens as time without time zone: declare the column as Time, or the value",
        ".where(ledger.c.opens == literal(value, Time))",
    ),
    "alias": (
        sa.select(Other.id).where(Other.points == Decimal("7.00")),
        both(NUMERIC.format("points")),
        'compare "user".points as integer: pass an int, not a Decimal',
        ".where(User.points == int(value))",
    ),
    "the column is cast elsewhere": (
        sa.select(sa.cast(User.points, sa.Text)).where(User.points == Decimal("7.00")),
        both(NUMERIC.format("points")),
        'compare "user".points as integer: pass an int, not a Decimal',
        ".where(User.points == int(value))",
    ),
    "among other conditions": (
        sa.select(User.id).where(User.state == "Active", User.points == 7.0, User.first != "y"),
        number("points"),
        'compare "user".points as integer: pass an int, not a float',
        ".where(User.points == int(value))",
    ),
    "a literal in the statement": (
        sa.text('SELECT id FROM "user" WHERE POINTS = 7.5'),
        both(NUMERIC.format("points")),
        'compare "user".points as integer: cast the other side, which is numeric, instead of the '
        "column",
        ".where(user.c.points == cast(value, Integer))",
    ),
    "join": (
        sa.select(User.id).join(ledger, User.id == L.ref).where(L.id < 9),
        both(NUMERIC.format("id")),
        'make ledger.ref bigint, as "user".id is',
        "mapped_column(BigInteger)  # ref of ledger, and a migration",
    ),
    "outer join": (
        sa.select(L.id, User.id).outerjoin(User, User.id == L.ref).where(L.id < 9),
        both(NUMERIC.format("id")),
        'make ledger.ref bigint, as "user".id is',
        "mapped_column(BigInteger)  # ref of ledger, and a migration",
    ),
    "join of texts": (
        sa.select(L.id).join(User, L.email == User.email).where(User.id < 9),
        both("(email)::text"),
        'make "user".email citext, as ledger.email is',
        'mapped_column(CITEXT)  # email of "user", and a migration',
    ),
    "sub-query": (
        sa.select(User.id).where(User.id.in_(sa.select(L.ref).where(L.id < 9))),
        both(NUMERIC.format("id")),
        'make ledger.ref bigint, as "user".id is',
        "mapped_column(BigInteger)  # ref of ledger, and a migration",
    ),
    "an aggregate's type": (
        sa.select(User.id).where(
            User.id == sa.select(func.sum(L.id)).where(L.ref < Decimal("2.50")).scalar_subquery()
        ),
        both(NUMERIC.format("id")),
        'compare "user".id as bigint: cast the other side, which is numeric, instead of the column',
        ".where(User.id == cast(value, BigInteger))",
    ),
    "an int that is too large": (
        sa.select(User.id).where(User.id == 2**70),
        {"psycopg2": NUMERIC.format("id")},
        'compare "user".id as bigint: do not look for an int that it cannot hold',
        "",
    ),
}

CASES = [(name, driver) for name in SPEAKS for driver in SPEAKS[name][1]]


@pytest.mark.parametrize(("name", "driver"), CASES)
def test_speaks(ledger_story, watch, name, driver):
    statement, subjects, summary, code = SPEAKS[name]
    watched = watch(ledger_story.url_for(driver))
    # Of other columns of the statement, missing-index may speak.
    (finding,) = by_rule(implicit_cast.NAME, watched.ask(statement))
    assert finding.subject == subjects[driver]
    (advice,) = finding.advice
    assert advice.kind is AdviceKind.REWRITE
    assert advice.ddl == ()
    assert advice.summary == summary
    assert advice.sqlalchemy == code
    assert advice.verdict.status is VerdictStatus.VERIFIED
    (index,) = finding.evidence["indexes_on_column"]
    assert index in advice.verdict.reason
    assert index in finding.problem


#: What runs the advised code: the statement, the value that it compares with, and the same rows.
APPLIED = {
    "Decimal against integer": Decimal("7.00"),
    "float against bigint": 7.0,
    "in list": [Decimal("7.00"), Decimal("8.00")],
    "range": 99_990.5,
    "sides exchanged": 7.5,
    "number as text": "7",
    "number as string": "7",
    "number as a string with a length": ["7", "8"],
    "numeric as text": "7",
    "float against numeric": 7.0,
    "citext declared as String": "U7@x.org",
    "text against char": "C7",
    "char against varchar": "L7",
}

NAMES = {
    "CITEXT": CITEXT,
    "Decimal": Decimal,
    "String": sa.String,
    "User": User,
    "ledger": ledger,
    "literal": sa.literal,
    "math": math,
}


def follow(advice, value):
    """Return a statement with the advised condition."""
    table = ledger if "ledger" in advice.sqlalchemy else User
    names = {**NAMES, "statement": sa.select(table.c.id if table is ledger else User.id)}
    return eval(f"statement{advice.sqlalchemy}", names | {"value": value, "values": value})


@pytest.mark.parametrize(
    ("name", "driver"), [(name, driver) for name, driver in CASES if name in APPLIED]
)
def test_is_silent_after_the_advised_code_which_finds_the_same(ledger_story, watch, name, driver):
    statement = SPEAKS[name][0]
    url = ledger_story.url_for(driver)
    watched = watch(url)
    (finding,) = watched.ask(statement)
    fixed = follow(finding.advice[0], APPLIED[name])
    with watched.app.app_context():
        found = [set(watched.db.session.scalars(one)) for one in (statement, fixed)]
        watched.db.session.rollback()
    # Only the citext in its own type finds another case.
    assert found[0] == (set() if "citext" in name else found[1])
    assert found[1]
    other = watch(url)
    assert other.ask(fixed) == []
    assert other.planwatch.stats()["inspected"] == 1


@pytest.mark.parametrize("value", [7.0, 7.5])
@pytest.mark.parametrize("operator", ["__lt__", "__le__", "__gt__", "__ge__"])
def test_the_rounding_that_is_advised_finds_the_same(story, watch, operator, value):
    watched = watch(story.url)
    few = User.id.between(1, 20)
    condition = getattr(User.points, operator)(value)
    (finding,) = watched.ask(sa.select(User.id).where(condition, User.points < value + 10.5))
    assert "leave the range as it was" in finding.advice[0].explanation
    first = finding.advice[0].sqlalchemy.split(",")[0].rstrip(")") + "))"
    rewritten = eval(
        f"statement{first}", {**NAMES, "statement": sa.select(User.id), "value": value}
    )
    with watched.app.app_context():
        read = watched.db.session.scalars
        assert set(read(sa.select(User.id).where(condition, few))) == set(
            read(rewritten.where(few))
        )
        watched.db.session.rollback()


#: Statements on which the rule must not say a word.
SILENT = {
    "own type": sa.select(User.id).where(User.points == 7),
    "bigint against integer": sa.select(User.id).where(User.points == sa.literal(7, sa.BigInteger)),
    "integer against bigint": sa.select(User.id).where(User.id == sa.literal(7, sa.Integer)),
    "integer against smallint": sa.select(L.id).where(L.half == sa.literal(7, sa.Integer)),
    "Decimal against numeric": sa.select(L.id).where(L.ref == Decimal("7.5")),
    "int against numeric": sa.select(L.id).where(L.ref == 7),
    "Decimal against double": sa.select(L.id).where(L.ratio == sa.literal(Decimal("7.5"))),
    "float against double": sa.select(L.id).where(L.ratio == 7.5),
    "double against real": sa.select(L.id).where(L.part == sa.literal(7.5, sa.Double)),
    "varchar as text": sa.select(User.id).where(sa.cast(User.email, sa.Text) == "x"),
    "varchar without an index": sa.select(L.id).where(L.note == "x"),
    "text against varchar": sa.select(L.id).where(L.label == sa.literal("x", sa.Text)),
    "varchar against text": sa.select(User.id).where(User.first == sa.literal("x", sa.String)),
    "varchar against char": sa.select(L.id).where(L.code == sa.literal("x", sa.String)),
    "text in char": sa.select(L.id).where(
        L.code.in_([sa.literal("x", sa.Text), sa.literal("y", sa.Text)])
    ),
    "cidr as inet": sa.select(L.id).where(L.net == sa.text("inet '10.0.0.7'")),
    "citext": sa.select(L.id).where(L.email == "x"),
    "timestamptz against timestamp": sa.select(L.id).where(
        L.local_at == sa.literal(NOON_UTC, sa.DateTime(timezone=True))
    ),
    "range of timestamptz against timestamp": sa.select(L.id).where(
        L.local_at < sa.literal(NOON_UTC, sa.DateTime(timezone=True)), L.local_at > NOON_UTC
    ),
    "timestamptz in timestamp": sa.select(L.id).where(
        L.local_at.in_([sa.literal(one, sa.DateTime(timezone=True)) for one in (NOON_UTC,) * 2])
    ),
    "timestamp against timestamptz": sa.select(L.id).where(
        L.exact_at == sa.literal(NOON, sa.DateTime)
    ),
    "now() against timestamp": sa.select(L.id).where(L.local_at > func.now()),
    "timestamp against date": sa.select(L.id).where(L.day == sa.literal(NOON, sa.DateTime)),
    "date against timestamp": sa.select(L.id).where(L.local_at == NOON.date()),
    "join of moments": sa.select(L.id).join(
        User, sa.and_(L.local_at == User.created_at, User.id < 9)
    ),
    "join of integers": sa.select(L.id).join(User, sa.and_(L.id == User.points, User.id < 9)),
    "only the value is cast": sa.select(User.id).where(
        User.points == sa.cast(sa.literal("7"), sa.Integer)
    ),
    "the other column is cast": sa.select(User.id).join(
        ledger, User.id == sa.cast(L.ref, sa.BigInteger)
    ).where(L.id < 9),
    "unequal": sa.select(User.id).where(User.points != Decimal("7.50"), User.id == 7),
    "all but one": sa.select(User.id).where(User.points != Decimal("7.50")),
    "all but one counted": sa.select(func.count()).where(User.points != Decimal("7.50")),
    "alternatives": sa.select(User.id).where(
        sa.or_(User.points == Decimal("7.50"), User.first == "x")
    ),
    "few rows found by another index": sa.select(User.id).where(
        User.id == 7, User.points == Decimal("7.50")
    ),
    "most of the table returned": sa.select(User.id).where(User.points > 0.5),
    "few different values": sa.select(func.count()).where(L.half == Decimal("1.00")),
    "small table": sa.select(Badge.id).where(Badge.id == Decimal("7.00")),
    "join of everything": sa.select(func.count()).select_from(User).join(
        ledger, User.id == L.ref
    ),
    "outer join that keeps every row": sa.select(User.id, L.id).outerjoin(
        ledger, sa.and_(User.id == L.ref, L.id < 9)
    ),
    "join that looks up the other side": sa.select(User.id).join(
        ledger, User.id == L.ref
    ).where(User.id < 9),
    "select list": sa.select(User.points == Decimal("7.50")).where(User.id == 7),
    "order by": sa.select(User.id).order_by(sa.cast(User.points, sa.Numeric)).limit(5),
    "catalog": sa.text("SELECT relname FROM pg_class WHERE relpages = 7.5"),
    "system column": sa.text("SELECT id FROM \"user\" WHERE tableoid = 7::bigint"),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_is_silent_on_twins(watched, name):
    assert by_rule(implicit_cast.NAME, watched.ask(SILENT[name])) == []
    assert watched.planwatch.stats()["inspected"] == 1


@pytest.mark.parametrize(("ms_per_cost", "found"), [(1.0, 0), (0.0, 1)])
def test_is_silent_where_a_limit_was_reached_early(story, watch, monkeypatch, ms_per_cost, found):
    # How long it took depends on the machine, so what is deemed early does here.
    monkeypatch.setattr(worth, "MIN_MS_PER_COST", ms_per_cost)
    statement = sa.select(User.id).where(User.points > 7.5).limit(3)
    assert len(watch(story.url).ask(statement)) == found


#: What another rule has.
OTHERS = {
    "the statement's own cast": (
        sa.select(User.id).where(sa.cast(User.points, sa.Numeric) == 7),
        NUMERIC.format("points"),
    ),
    "a cast to a type of unknown name": (
        sa.text("SELECT id FROM \"user\" WHERE CAST(mood AS text) = 'sad' AND id > 0"),
        "(mood)::text",
    ),
    "part of an expression": (
        sa.select(L.id).where(L.id * Decimal("2.5") == Decimal("15.0")),
        "(id)::numeric * 2.5",
    ),
    "range of texts": (
        sa.select(User.id).where(sa.cast(User.points, sa.Text) > "99999"),
        "(points)::text",
    ),
    "moment as a date": (
        sa.select(User.id).where(sa.cast(User.created_at, sa.Date) == sa.text("'2020-03-01'")),
        "(created_at)::date",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_leaves_to_functional_predicate(watched, name):
    statement, subject = OTHERS[name]
    (finding,) = watched.ask(statement)
    assert finding.rule == FUNCTIONAL
    if name != "part of an expression":
        assert finding.subject == subject


@pytest.mark.parametrize("selected", ["points::numeric AS worth", "points::text AS worth"])
def test_leaves_the_cast_of_a_view_to_functional_predicate(any_story, watch, selected):
    any_story.execute(f'CREATE VIEW worths AS SELECT id, {selected} FROM "user"')
    value = Decimal("7.00") if "numeric" in selected else "7"
    worths = sa.table("worths", sa.column("worth"))
    (finding,) = watch(any_story.url).ask(sa.select(worths).where(worths.c.worth == value))
    assert finding.rule == FUNCTIONAL


def test_says_why_and_what_is_useless(story, watch):
    (finding,) = watch(story.url).ask(sa.select(User.id).where(User.points == Decimal("7.00")))
    assert finding.problem.startswith(
        'the statement reads all of "user", about 100,000 rows, and casts points, which is '
        "integer, to numeric for each of them, because it is compared with a Decimal: "
        "ix_user_points on points cannot serve the cast."
    )
    facts = finding.evidence
    assert facts["column_type"], facts["cast_type"] == ("integer", "numeric")
    assert facts["value_types"] == ["Decimal"]
    assert facts["other_column"] is None
    assert facts["served_by"] == "ix_user_points"
    assert "7.00" not in f"{finding}"


REASONS = {
    "number as text": "because it is compared with a str: ix_user_points",
    "an int that is too large": "because it is compared with an int that is too large for it: ",
    "join": "because ledger.ref, its other side, is numeric: user_pkey",
    "an aggregate's type": "because it is compared with a value of that type: user_pkey",
}


@pytest.mark.parametrize("name", REASONS)
def test_names_what_forces_the_cast(ledger_story, watch, name):
    (finding,) = watch(ledger_story.url).ask(SPEAKS[name][0])
    assert REASONS[name] in finding.problem


def test_does_not_promise_an_index_that_is_not_there(watched):
    statement = sa.select(roles_users).where(roles_users.c.user_id == Decimal("7.00"))
    (finding,) = watched.ask(statement)
    assert ": there is no index on user_id either." in finding.problem
    assert finding.evidence["indexes_on_column"] == []
    verdict = finding.advice[0].verdict
    assert verdict.status is VerdictStatus.NOT_APPLICABLE
    assert "no index on user_id" in verdict.reason


def test_does_not_promise_an_index_that_cannot_serve(any_story, watch):
    any_story.execute(
        "CREATE INDEX part ON roles_users (user_id) WHERE label = 'none'",
    )
    statement = sa.select(roles_users).where(roles_users.c.user_id == Decimal("7.00"))
    (finding,) = watch(any_story.url).ask(statement)
    verdict = finding.advice[0].verdict
    assert verdict.status is VerdictStatus.NOT_APPLICABLE
    assert "did not use part for the bare column" in verdict.reason


def test_names_the_parent_of_partitions(watched):
    (finding,) = watched.ask(sa.select(Order.Code).where(Order.id == Decimal("7.00")))
    assert finding.rule == implicit_cast.NAME
    assert finding.relation == '"Shop"."Order"'
    assert finding.advice[0].summary.startswith('compare "Shop"."Order".id as bigint: ')


def test_update_and_delete(ledger_story, watch):
    watched = watch(ledger_story.url)
    for statement in (
        sa.update(User).values(first="x").where(User.points == Decimal("-7.50")),
        sa.delete(User).where(User.points == Decimal("-7.50")),
    ):
        with watched.app.app_context():
            watched.db.session.execute(statement)
            watched.db.session.rollback()
    findings = watched.findings()
    assert {finding.subject for finding in findings} == {NUMERIC.format("points")}
    assert len(findings) == 2


def test_is_silent_where_an_index_holds_the_cast(any_story, driver, watch):
    any_story.execute('CREATE INDEX ON "user" ((points::numeric))', "ANALYZE")
    statement = sa.select(User.id).where(User.points == Decimal("7.00"))
    assert watch(any_story.url_for(driver)).ask(statement) == []
    # From now on the planner prefers not to use it.
    any_story.execute(f"ALTER DATABASE {any_story.name} SET random_page_cost = 1e9")
    watched = watch(any_story.url_for(driver))
    assert watched.ask(statement) == []
    assert watched.planwatch.stats()["inspected"] == 1


def test_growth_speaks_of_small_tables(story, watch):
    watched = watch(story.url, PLANWATCH_GROWTH=True)
    (finding,) = watched.ask(SILENT["small table"])
    assert finding.rule == implicit_cast.NAME
    assert finding.severity is Severity.INFO
    assert finding.advice[0].verdict.status is VerdictStatus.VERIFIED


def test_growth_is_silent_where_a_small_join_has_an_index(story, watch):
    """The planner has the index on the other side to choose, and reads forty rows."""
    watched = watch(story.url, PLANWATCH_GROWTH=True)
    story.execute("CREATE TABLE medal (id numeric PRIMARY KEY)", "ANALYZE medal")
    medal = sa.table("medal", sa.column("id"))
    assert watched.ask(sa.select(Badge.id).join(medal, Badge.id == medal.c.id)) == []


def test_another_value_does_not_resolve(any_story, watch):
    """psycopg2 sends the same statement for both."""
    watched = watch(any_story.url)
    (finding,) = watched.ask(sa.select(User.id).where(User.points == Decimal("7.50")))
    for value in (7, Decimal("7")):
        (same,) = watched.ask(sa.select(User.id).where(User.points == value))
        assert same.id == finding.id
    assert watched.planwatch.stats()["inspected"] == 3


RESOLVED = {
    "an index on the cast": ('CREATE INDEX ON "user" ((points::numeric))', "ANALYZE"),
    "a table that has shrunk": ('DELETE FROM "user" WHERE id > 9', 'VACUUM ANALYZE "user"'),
}


@pytest.mark.parametrize("name", RESOLVED)
def test_is_resolved(any_story, driver, watch, name):
    watched = watch(any_story.url_for(driver))
    statement = sa.select(User.id).where(User.points == Decimal("7.00"))
    assert len(watched.ask(statement)) == 1
    any_story.execute(*RESOLVED[name])
    assert watched.ask(statement) == []


#: Casts that a statement's own text has, or has not, of the column `a` to numeric or to text.
WRITTEN = {
    "SELECT 1 FROM t WHERE CAST(t.a AS NUMERIC(10, 2)) = 7": True,
    'SELECT 1 FROM t WHERE CAST("t"."a" AS DECIMAL) = 7': True,
    "SELECT 1 FROM t WHERE cast(A as text) = '7'": True,
    "SELECT 1 FROM t WHERE t.a::numeric = 7": True,
    "SELECT 1 FROM t WHERE (t.a)::varchar = '7'": True,
    "SELECT 1 FROM t WHERE a::a_domain = 7": True,
    "SELECT 1 FROM t WHERE a::date = %(a)s::numeric": False,
    "SELECT CAST(a AS date) FROM t WHERE a = 7.5": False,
    "SELECT 1 FROM t WHERE a = %(a)s::NUMERIC": False,
    "SELECT 1 FROM t WHERE a = CAST(%(a)s AS NUMERIC)": False,
    'SELECT 1 FROM t WHERE "A"::numeric = 7': False,
    "SELECT 1 FROM t WHERE b::numeric = 7 AND a": False,
    "SELECT 1 FROM t WHERE a::": False,
    "SELECT 1 FROM t WHERE CAST(a": False,
    "SELECT 1 FROM t WHERE a = 'unfinished": False,
}


@pytest.mark.parametrize("statement", WRITTEN)
def test_reads_the_casts_of_a_statement(statement):
    types = ("numeric", "character varying", "text")
    assert cast_in_statement("a", types, statement) is WRITTEN[statement]

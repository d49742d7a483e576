"""Each kind of rewrite that is advised finds the rows that the original finds.

What people would paste is run beside the original, on random rows with NULL, infinity and what is
at an edge: a moment at which clocks are put forward or back, a number that rounds to another one.
"""

from __future__ import annotations

import datetime
import json
import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, ENUM, INTERVAL

from flask_planwatch import AdviceKind, VerdictStatus
from flask_planwatch.fixes.unnest import joined
from flask_planwatch.signals import statement_inspected

from .databases import Database, make_database

pytestmark = pytest.mark.slow

thing = sa.Table(
    "thing",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), index=True),
    sa.Column("local", sa.DateTime, index=True),
    sa.Column("day", sa.Date, index=True),
    sa.Column("small", sa.SmallInteger, index=True),
    sa.Column("whole", sa.Integer, index=True),
    sa.Column("large", sa.BigInteger, index=True),
    sa.Column("price", sa.Numeric(12, 2), index=True),
    sa.Column("exact", sa.Numeric, index=True),
    sa.Column("part", sa.REAL, index=True),
    sa.Column("opens", sa.Time, index=True),
    sa.Column("key", sa.Uuid, index=True),
    sa.Column("mood", ENUM("happy", "sad", "so-so", name="mood"), index=True),
    sa.Column("email", CITEXT, index=True),
    sa.Column("code", sa.CHAR(4), index=True),
    sa.Column("first", sa.Text, index=True),
    sa.Column("last", sa.String(20), index=True),
    sa.Column("tags", ARRAY(sa.Text)),
)
T = thing.c

UTC = datetime.UTC

#: Clocks are put back there over midnight, within the hour after it, and by half an hour; a day is
#: left out; all is as usual; and nothing ever changes.
ZONES = (
    "America/St_Johns",
    "America/Havana",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Europe/Oslo",
    "UTC",
)

#: When that happens, in UTC.
TURNS = (
    datetime.datetime(2006, 10, 29, 2, 31, tzinfo=UTC),
    datetime.datetime(2012, 11, 4, 5, tzinfo=UTC),
    datetime.datetime(2012, 4, 1, 4, tzinfo=UTC),
    datetime.datetime(2019, 4, 6, 15, tzinfo=UTC),
    datetime.datetime(2011, 12, 30, 10, tzinfo=UTC),
    datetime.datetime(2024, 3, 31, 1, tzinfo=UTC),
    datetime.datetime(2024, 1, 1, tzinfo=UTC),
    datetime.datetime(4, 3, 1, tzinfo=UTC),
)

#: Distances from there, in seconds, that end a period or do not.
AWAY = (0, 1e-6, -1e-6, 60, -60, 1800, -1800, 3600, -3600, 7200, 43200, -43200, 86400, -86400)

moments = st.builds(
    lambda turn, away, back: turn + datetime.timedelta(seconds=away * (1 + back)),
    st.sampled_from(TURNS),
    st.sampled_from(AWAY),
    st.sampled_from((0, 0, 1, 29)),
)
integers = st.sampled_from((0, 1, -1, 7, 8, 10, 11, 12, 123, 32_767, -32_768)) | st.integers(-9, 9)
large = integers | st.sampled_from((2**53, 2**53 + 1, 2**63 - 1, -(2**63)))
fractions = st.sampled_from((0.0, 0.5, -0.5, 7.5, 7.0, 0.1, 0.3, 1e10, 2.0**53)) | st.integers(
    -40, 40
).map(lambda quarter: quarter / 4)
#: As an int, what the column cannot hold is an error.
small_fractions = fractions.filter(lambda number: abs(number) < 2**15)
texts = st.sampled_from(("", "a", "A", "ab", "a ", " ", "ab  ", "7", "b'c"))
keys = st.sampled_from(tuple(uuid.UUID(int=number << 64) for number in (0, 1, 0xAB, 2**64 - 1)))


def or_null(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


rows = st.lists(
    st.fixed_dictionaries(
        {
            "at": or_null(moments) | st.sampled_from(("infinity", "-infinity", "0044-03-15 BC")),
            "local": or_null(moments.map(lambda moment: moment.replace(tzinfo=None)))
            | st.sampled_from(("infinity", "-infinity", "0044-03-15 BC")),
            "day": or_null(moments.map(datetime.datetime.date)) | st.just("infinity"),
            "small": or_null(integers),
            "whole": or_null(integers),
            "large": or_null(large),
            "price": or_null(fractions.filter(lambda number: number < 1e9)) | st.just("NaN"),
            "exact": or_null(fractions) | st.sampled_from(("NaN", "7.00", "0.1000000000000000055")),
            "part": or_null(fractions) | st.sampled_from(("NaN", "Infinity", "0.1")),
            "opens": or_null(st.sampled_from(("00:00", "07:30", "24:00", "07:30:00.000001"))),
            "key": or_null(keys),
            "mood": or_null(st.sampled_from(("happy", "sad", "so-so"))),
            "email": or_null(texts),
            "code": or_null(texts),
            "first": or_null(texts),
            "last": or_null(texts),
            "tags": or_null(st.sampled_from(("{}", "{a}", "{a,b}", "{NULL}", "{{a},{b}}", '{""}'))),
        }
    ),
    min_size=1,
    max_size=6,
)


@dataclass
class Kind:
    """A kind of condition: how one is made of a value, and what the words of the advice stand for.

    `names` returns what the code calls `value`, `start` and `end`, of the value and the time zone.
    `never`: other rows may be found, so that no rewrite counts.
    """

    condition: Callable[[Any], sa.ColumnElement[bool]]
    values: st.SearchStrategy[Any]
    names: Callable[[Any, str], dict[str, Any]] = lambda value, zone: {
        "value": value,
        "values": value,
    }
    driver: str = "psycopg"
    never: bool = False


COMPARE = {
    "=": lambda left, right: left == right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
operators = st.sampled_from(tuple(COMPARE))


def begin(moment: datetime.datetime, period: str) -> datetime.datetime:
    """Return the beginning of the period in which a moment without a time zone is."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return {
        "hour": moment.replace(minute=0, second=0, microsecond=0),
        "day": day,
        "month": day.replace(day=1),
        "year": day.replace(day=1, month=1),
    }[period]


def following(start: datetime.datetime, period: str) -> datetime.datetime:
    """Return the beginning of the next period."""
    if period == "hour":
        return start + datetime.timedelta(hours=1)
    days = {"day": 1, "month": 31, "year": 366}[period]
    return begin(start + datetime.timedelta(days=days), period)


def range_of(period: str) -> Callable[[Any, str], dict[str, Any]]:
    """Return what `start` and `end` are for a value, which is (operator, moment)."""

    def names(value: Any, zone: str) -> dict[str, Any]:
        _, moment = value
        if moment.tzinfo is not None:
            moment = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        start = begin(moment, period)
        return {"start": start, "end": following(start, period)}

    return names


def literal_date(moment: datetime.datetime) -> Any:
    return sa.literal(moment.date(), sa.Date)


def calendar(count: int) -> Callable[[Any], sa.ColumnElement[bool]]:
    """Return the comparison of year, month and day, as many of them as `count`."""

    def condition(value: Any) -> sa.ColumnElement[bool]:
        fields = ("year", "month", "day")[:count]
        return sa.and_(
            *(sa.extract(field, T.local) == getattr(value[1], field) for field in fields)
        )

    return condition


period_values = st.tuples(operators, moments)
local_values = st.tuples(operators, moments.map(lambda moment: moment.replace(tzinfo=None)))
#: Half of them begin a month, as only those are compared with one.
month_values = local_values | local_values.map(lambda pair: (pair[0], begin(pair[1], "month")))


def compared(expression: Callable[[], Any], value: Callable[[Any], Any] = lambda moment: moment):
    return lambda pair: COMPARE[pair[0]](expression(), value(pair[1]))


KINDS = {
    "date of a timestamptz": Kind(
        compared(lambda: sa.cast(T.at, sa.Date), literal_date), local_values, range_of("day")
    ),
    "day of a timestamptz": Kind(
        compared(lambda: func.date_trunc("day", T.at)), period_values, range_of("day")
    ),
    "hour of a timestamptz": Kind(
        compared(lambda: func.date_trunc("hour", T.at)), period_values, range_of("hour")
    ),
    "year of a timestamptz": Kind(
        compared(lambda: sa.extract("year", T.at), lambda moment: moment.year),
        local_values,
        range_of("year"),
    ),
    "date of a timestamp": Kind(
        compared(lambda: sa.cast(T.local, sa.Date), literal_date), local_values, range_of("day")
    ),
    "month of a timestamp": Kind(
        compared(lambda: func.date_trunc("month", T.local)), month_values, range_of("month")
    ),
    "year and month": Kind(calendar(2), local_values, range_of("month")),
    "year, month and day": Kind(calendar(3), local_values, range_of("day")),
    "year of a date": Kind(
        compared(lambda: sa.extract("year", T.day), lambda moment: moment.year),
        local_values,
        range_of("year"),
    ),
    "seconds since 1970": Kind(
        compared(lambda: sa.extract("epoch", T.at), lambda moment: moment.timestamp()),
        period_values,
        lambda value, zone: {"value": value[1].timestamp()},
    ),
    "time until a moment": Kind(
        lambda value: COMPARE[value[0]](
            sa.literal(TURNS[5]) - T.at, sa.literal(value[1], INTERVAL)
        ),
        st.tuples(
            operators, st.sampled_from(AWAY).map(lambda away: datetime.timedelta(seconds=away))
        ),
        lambda value, zone: {"moment": TURNS[5], "value": value[1]},
        driver="psycopg2",
    ),
    "month in the session's zone": Kind(
        compared(lambda: sa.extract("month", T.at), lambda moment: moment.month),
        local_values,
        lambda value, zone: {"value": value[1].month},
    ),
    "NULL stands for now": Kind(
        compared(lambda: func.coalesce(T.at, func.now())),
        period_values,
        lambda value, zone: {"value": value[1]},
    ),
    "concatenation": Kind(lambda value: func.concat(T.first, T.last) == value, texts),
    "enum as text": Kind(
        lambda value: sa.cast(T.mood, sa.Text) == value, st.sampled_from(("sad", "so-so", "Sad"))
    ),
    "pattern for an enum": Kind(
        lambda value: sa.cast(T.mood, sa.Text).like(value),
        st.sampled_from(("s%", "%a%", "x%")),
        lambda value, zone: {
            "values": {"s%": ["sad", "so-so"], "%a%": ["happy", "sad"], "x%": []}[value]
        },
    ),
    "uuid as text": Kind(
        lambda value: sa.cast(T.key, sa.String) == value,
        keys.map(str) | keys.map(lambda key: str(key).upper()),
        lambda value, zone: {"value": uuid.UUID(value)},
    ),
    "Decimal against integer": Kind(
        lambda value: COMPARE[value[0]](T.whole, Decimal(str(value[1]))),
        st.tuples(operators, small_fractions),
        lambda value, zone: {"value": Decimal(str(value[1]))},
    ),
    "float against smallint": Kind(
        lambda value: COMPARE[value[0]](T.small, value[1]),
        st.tuples(operators, small_fractions),
        lambda value, zone: {"value": value[1]},
    ),
    "float against bigint": Kind(
        lambda value: COMPARE[value[0]](T.large, value[1]),
        st.tuples(operators, fractions),
        lambda value, zone: {"value": value[1]},
    ),
    "floats in a list": Kind(
        lambda value: T.whole.in_([Decimal(str(one)) for one in value]),
        st.lists(small_fractions, min_size=2, max_size=3, unique=True),
        lambda value, zone: {"values": [Decimal(str(one)) for one in value]},
    ),
    "float against numeric": Kind(
        lambda value: COMPARE[value[0]](T.price, sa.literal(value[1], sa.Double)),
        st.tuples(operators, fractions),
        lambda value, zone: {"value": value[1]},
    ),
    "float against any numeric": Kind(
        lambda value: COMPARE[value[0]](T.exact, sa.literal(value[1], sa.Double)),
        st.tuples(operators, fractions),
        lambda value, zone: {"value": value[1]},
        never=True,
    ),
    "number as text": Kind(
        lambda value: sa.cast(T.whole, sa.Text) == value, st.sampled_from(("7", "07", "-1", "0"))
    ),
    "a number as a short text": Kind(
        lambda value: sa.cast(T.whole, sa.String(2)) == value,
        st.sampled_from(("12", "-3")),
        never=True,
    ),
    "numeric as text": Kind(
        lambda value: sa.cast(T.exact, sa.Text) == value, st.sampled_from(("7", "7.0", "0.50"))
    ),
    "citext as text": Kind(lambda value: sa.type_coerce(T.email, sa.String) == value, texts),
    "text against char": Kind(lambda value: T.code == sa.cast(sa.literal(value), sa.Text), texts),
    "char against varchar": Kind(
        lambda value: T.last == sa.cast(sa.literal(value), sa.CHAR(8)),
        texts,
        never=True,
    ),
    "timedelta against time": Kind(
        lambda value: T.opens == sa.literal(value),
        st.sampled_from((7.5, 0)).map(lambda hours: datetime.timedelta(hours=hours)),
        lambda value, zone: {"value": (datetime.datetime.min + value).time()},
    ),
    "element of an array": Kind(lambda value: sa.literal(value) == T.tags.any_(), texts),
}

#: What the code of an advice names.
NAMES = {
    "CITEXT": CITEXT,
    "Decimal": Decimal,
    "String": sa.String,
    "UTC": UTC,
    "and_": sa.and_,
    "datetime": datetime.datetime,
    "extract": sa.extract,
    "false": sa.false,
    "func": func,
    "literal": sa.literal,
    "math": math,
    "or_": sa.or_,
    "thing": thing,
    "timedelta": datetime.timedelta,
}

FILL = """
INSERT INTO thing SELECT row_number() OVER (), x.* FROM jsonb_to_recordset(%(rows)s) AS x (
    at timestamptz, local timestamp, day date, small smallint, whole int, large bigint,
    price numeric, exact numeric, part real, opens time, key uuid, mood mood, email citext,
    code char(4), first text, last varchar, tags text[])
"""


@pytest.fixture(scope="module")
def things(any_server: Any) -> Iterator[Database]:
    """A database with an empty table that has an index on each column."""
    for database in make_database(any_server, None):
        database.execute("CREATE EXTENSION citext")
        thing.metadata.create_all(sa.create_engine(database.url, poolclass=sa.NullPool))
        yield database


def written(value: Any) -> Any:
    """Return a value as JSON has it."""
    return value if value is None or isinstance(value, int | float) else str(value)


def ask(watched: Any, kind: Kind, some: list[dict[str, Any]], value: Any, zone: str) -> bool | None:
    """Whether the rewrite that is advised finds what the original finds, None if there is none."""
    condition = kind.condition(value)
    inspections = []
    # What was advised for another value is not what is tested.
    watched.planwatch.clear(watched.app)

    def keep(sender: object, inspection: Any) -> None:
        inspections.append(inspection)

    with watched.app.app_context(), statement_inspected.connected_to(keep, watched.app):
        session = watched.db.session
        read = session.connection().exec_driver_sql
        read("DELETE FROM thing")
        as_json = [{name: written(one) for name, one in row.items()} for row in some]
        read(FILL, {"rows": json.dumps(as_json)})
        session.commit()
        session.connection().exec_driver_sql(f"SET LOCAL TIME ZONE '{zone}'")
        statement = sa.select(T.id).where(condition)
        try:
            original = set(session.scalars(statement))
        except sa.exc.DataError:
            # Before 17, a server subtracts no infinite moments: there is nothing to compare with.
            session.rollback()
            # What is said of this one must not come with the next.
            assert watched.planwatch.flush(240, watched.app)
            return None
        assert watched.planwatch.flush(240, watched.app)
        found = [advice for one in inspections for f in one.findings for advice in f.advice]
        advised = [
            advice
            for advice in found
            if advice.kind is AdviceKind.REWRITE
            and advice.sqlalchemy
            and advice.verdict.status is not VerdictStatus.UNTESTED
        ]
        same = None
        for advice in advised:
            names = {**NAMES, **kind.names(value, zone), "condition": condition}
            if " in UTC" in advice.summary:
                names |= {name: names[name].replace(tzinfo=UTC) for name in ("start", "end")}
            elif "in the time zone" in advice.explanation:
                own = ZoneInfo(advice.explanation.rpartition(" ")[2].rstrip("."))
                names |= {name: names[name].replace(tzinfo=own) for name in ("start", "end")}
            code = advice.sqlalchemy.replace("time(…)", "value")
            rewritten = eval(f"statement{code}", names | {"statement": sa.select(T.id)})
            opted_out = rewritten.execution_options(planwatch=False)
            same = set(session.scalars(opted_out)) == original
            assert same, (advice.summary, advice.sqlalchemy, value, zone)
        session.rollback()
    return same


#: Of each kind and on each server, as each takes an inspection; there are five operators.
EXAMPLES = 15

#: It may be that no example of a round is advised to be written otherwise.
ROUNDS = 20


@pytest.mark.parametrize("name", KINDS)
def test_a_rewrite_finds_the_same_rows(things: Database, watch: Any, name: str) -> None:
    kind = KINDS[name]
    watched = watch(
        things.url_for(kind.driver),
        PLANWATCH_GROWTH=True,
        PLANWATCH_INSPECTIONS_PER_MINUTE=1e9,
    )
    advised = 0

    # To look for a smaller example takes an inspection for each one.
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(some=rows, value=kind.values, zone=st.sampled_from(ZONES))
    def finds_the_same(some: list[dict[str, Any]], value: Any, zone: str) -> None:
        nonlocal advised
        advised += ask(watched, kind, some, value, zone) is not None

    for _ in range(ROUNDS):
        finds_the_same()
        if advised or kind.never:
            break
    assert watched.planwatch.stats(watched.app)["errors"] == 0
    assert (advised == 0) is kind.never


#: Statements with a sub-query that runs for each row, which a join can replace.
SUB_QUERIES = (
    "SELECT a.id, (SELECT count(*) FROM s WHERE s.a = a.x) FROM a",
    "SELECT a.id, (SELECT count(s.y) FILTER (WHERE s.y > 1) FROM s WHERE s.a = a.x) FROM a",
    "SELECT a.id, 2 * (SELECT coalesce(sum(s.y), 7) + count(*) FROM s WHERE a.x = s.a) FROM a",
    "SELECT a.id FROM a WHERE a.y > (SELECT 0.5 * sum(s.y) FROM s WHERE s.a = a.x)",
    "SELECT a.id, (SELECT max(s.y) FROM s WHERE s.a = a.x AND s.y = a.y AND s.id > 2) FROM a",
    "SELECT a.id, (SELECT s.y FROM s WHERE s.a = a.x ORDER BY s.y DESC, s.id LIMIT 1) FROM a",
    "SELECT a.id, (SELECT s.y FROM s WHERE s.a = a.x ORDER BY s.y NULLS FIRST LIMIT 1) FROM a",
    "SELECT a.id, (SELECT s.y FROM s WHERE s.id = a.x) FROM a",
    "SELECT a.id FROM a WHERE a.y > 1 OR EXISTS (SELECT 1 FROM s WHERE s.a = a.x AND s.y > 0)",
    "SELECT a.id FROM a WHERE a.id NOT IN (SELECT s.id FROM s WHERE s.y > 0)",
)

few = or_null(st.integers(0, 3))


@settings(max_examples=EXAMPLES)
@given(
    outer=st.lists(st.tuples(few, few), max_size=5),
    inner=st.lists(st.tuples(few, few), max_size=8),
)
def test_a_join_finds_the_same_as_its_sub_query(
    things: Database, outer: list[tuple[Any, Any]], inner: list[tuple[Any, Any]]
) -> None:
    engine = sa.create_engine(things.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        run = connection.exec_driver_sql
        run("CREATE TEMP TABLE a (id int PRIMARY KEY, x int, y int)")
        run("CREATE TEMP TABLE s (id int PRIMARY KEY, a int, y int)")
        for table, values in (("a", outer), ("s", inner)):
            for number, row in enumerate(values):
                run(f"INSERT INTO {table} VALUES (%s, %s, %s)", (number, *row))
        for statement in SUB_QUERIES:
            derived = joined(statement)
            assert derived is not None, statement
            found = [sorted(map(repr, run(text).all())) for text in (statement, derived)]
            assert found[0] == found[1], derived
        connection.rollback()

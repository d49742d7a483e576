"""Functions of a moment, and the range on the bare column that they stand for.

`date_trunc('day', at) = x`, `at::date = x` and `extract(year FROM at) = x` are true from one moment
up to another. A plain index finds such a range. Each function that is read here grows with its
argument, so that the server can check the ends: see fixes/moment.py.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sqlglot import expressions as sql

from .comparison import Comparison, Constant, constant
from .dialect import Structure
from .predicate import FLIPPED, parse
from .schema import Column, Relation
from .text import quoted_literal

TIMESTAMP, TIMESTAMPTZ = "timestamp without time zone", "timestamp with time zone"

#: Types whose values are moments.
MOMENTS = frozenset({TIMESTAMP, TIMESTAMPTZ, "date"})

#: Time zones that are always as far from UTC. In all others, a day may begin twice, or not at all.
FIXED_ZONES = frozenset({"UTC", "ETC/UTC", "GMT", "ETC/GMT", "UCT", "ETC/UCT", "ZULU", "ETC/ZULU"})

#: How long the periods are that date_trunc() knows. Those of decades and more begin in 1, not in 0.
_LENGTHS = {
    "second": "1 second",
    "minute": "1 minute",
    "hour": "1 hour",
    "day": "1 day",
    "week": "7 days",
    "month": "1 month",
    "quarter": "3 months",
    "year": "1 year",
}

#: Fields that name a day together, from the longest period to the shortest.
CALENDAR = ("year", "month", "day")

_EPOCH = "epoch"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WHOLE = re.compile(r"\d{1,4}(?:\.0+)?")

#: A moment as PostgreSQL prints it in the DateStyle ISO; not an infinite one.
_MOMENT = re.compile(r"\d{4,6}-\d\d-\d\d[\d :.+-]*+")

#: An interval of hours, or also of days, as PostgreSQL prints it. Months are of different lengths.
_HOURS = re.compile(r"\A-?\d+:\d\d:\d\d(?:\.\d+)?")
_DAYS = re.compile(r"\A-?\d+ days?(?: -?\d+:\d\d:\d\d(?:\.\d+)?)?")

_RANGES = frozenset({"=", "<", "<=", ">", ">="})


@dataclass(frozen=True)
class Cut:
    """An expression that cuts a moment down: to the period that it is in, or to a field of it.

    `zone` is the time zone in which it does so: "" if none matters, None if it is the session's.
    """

    column: Column
    period: str
    zone: str | None


@dataclass(frozen=True)
class Bounds:
    """What a comparison with a cut moment means for the bare column.

    `tests` are the predicates as printed, with the `alias` before the column. `operator` compares
    the column with a period; `start` is the beginning of that as a timestamp in its own zone, as
    SQL, and `length` how long it is. For a point in time, which `start` then is, it is empty.
    `words` say how arithmetic makes that point.
    """

    cut: Cut
    alias: str
    tests: tuple[str, ...]
    operator: str
    start: str
    length: str
    words: str = ""

    @property
    def has_start(self) -> bool:
        """Whether the range begins somewhere."""
        return self.operator in {"=", ">", ">="}

    @property
    def has_end(self) -> bool:
        """Whether the range ends somewhere."""
        return self.operator in {"=", "<", "<="}


def bounds(comparisons: Iterable[Comparison], relation: Relation) -> tuple[Bounds, ...]:
    """Return the bounds that comparisons set for a column of moments, nothing if one sets none."""
    found: dict[tuple[str, str, str], Bounds] = {}
    fields: dict[str, tuple[Cut, Comparison, Constant]] = {}
    for comparison in comparisons:
        cut, value = read(comparison, relation), constant(comparison.other)
        if cut is None or value is None or comparison.operator not in _RANGES:
            return ()
        if calendar_field(comparison, relation):
            fields.setdefault(cut.period, (cut, comparison, value))
            if len(fields) > 1 and comparison.operator != "=":
                return ()
            continue
        one = _bounds(comparison, cut, value)
        if one is None:
            return ()
        # Each partition says the same under an alias of its own.
        found.setdefault(comparison.said, one)
    named = _calendar(fields) if fields else None
    if fields and named is None:
        return ()
    return (*found.values(), *([named] if named else []))


def read(comparison: Comparison, relation: Relation) -> Cut | None:
    """Return how an operand cuts a column of moments, None if it is anything else."""
    structure = parse(comparison.operand.without_alias())
    if structure is None:
        return None
    structure = structure.unnest()
    if isinstance(structure, sql.Cast) and structure.to.this is sql.DataType.Type.DOUBLE:
        # A driver that sends a float has the field cast to its type.
        inner = structure.this.unnest()
        structure = inner if isinstance(inner, sql.Extract) else structure
    if isinstance(structure, sql.Cast):
        to_date = structure.to.this is sql.DataType.Type.DATE
        return _cut("day", structure.this, relation) if to_date else None
    if isinstance(structure, sql.Extract):
        field = structure.this.name.lower()
        known = field in {*CALENDAR, _EPOCH}
        return _cut(field, structure.expression, relation) if known else None
    if not isinstance(structure, sql.Anonymous):
        return None
    name, arguments = structure.name.lower(), structure.expressions
    if name == "date" and len(arguments) == 1:
        return _cut("day", arguments[0], relation)
    if name != "date_trunc" or len(arguments) not in {2, 3}:
        return None
    period = _text(arguments[0])
    cut = _cut(period, arguments[1], relation) if period in _LENGTHS else None
    if cut is None or len(arguments) == 2:
        return cut
    # With a zone of its own, the function takes a moment that has one, too.
    zone = _text(arguments[2])
    return replace(cut, zone=zone) if cut.zone is None and zone else None


def calendar_field(comparison: Comparison, relation: Relation) -> str:
    """Return which number of a moment's date the operand is, as CALENDAR has it, or nothing."""
    cut, structure = read(comparison, relation), parse(comparison.operand.without_alias())
    is_number = structure is not None and structure.find(sql.Extract) is not None
    return cut.period if cut is not None and is_number and cut.period in CALENDAR else ""


def _cut(period: str, argument: Structure, relation: Relation) -> Cut | None:
    argument, zone = _without_zone(argument.unnest())
    if zone == "":
        return None
    column = relation.column(argument.name) if isinstance(argument, sql.Column) else None
    if column is None or column.base_type not in MOMENTS:
        return None
    if column.base_type != TIMESTAMPTZ:
        # AT TIME ZONE makes a moment of a timestamp, which then is in the session's zone.
        return Cut(column, period, "") if zone is None else None
    if period == _EPOCH:
        return Cut(column, period, "") if zone is None else None
    return Cut(column, period, zone)


def _without_zone(argument: Structure) -> tuple[Structure, str | None]:
    """Return what is moved to a time zone, and that: None if none is named, "" if by no literal."""
    if isinstance(argument, sql.AtTimeZone):
        return argument.this.unnest(), _text(argument.args["zone"])
    # The operator's function, which is printed as it was written.
    called = isinstance(argument, sql.Anonymous) and argument.name.lower() == "timezone"
    if called and len(argument.expressions) == 2:
        return argument.expressions[1].unnest(), _text(argument.expressions[0])
    return argument, None


def _text(argument: Structure) -> str:
    """Return the text that an argument is, or nothing."""
    while isinstance(argument, sql.Paren | sql.Cast):
        argument = argument.this
    return argument.name if isinstance(argument, sql.Literal) and argument.is_string else ""


def _bounds(comparison: Comparison, cut: Cut, value: Constant) -> Bounds | None:
    operator, alias = comparison.operator, comparison.scan.alias or ""
    tests = (comparison.conjunct.text,)
    if cut.period == _EPOCH:
        if not _NUMBER.fullmatch(value.value):
            return None
        moment = f"to_timestamp({value.value})"
        local = moment if cut.column.base_type == TIMESTAMPTZ else f"{moment} AT TIME ZONE 'UTC'"
        return Bounds(cut, alias, tests, operator, local, "")
    if value.type not in MOMENTS or not _MOMENT.fullmatch(value.value):
        return None
    literal = f"'{value.value}'::{value.type}"
    if value.type == TIMESTAMPTZ:
        start = f"({literal} AT TIME ZONE {zone_of(cut)})"
    else:
        start = f"{literal}::timestamp"
    return Bounds(cut, alias, tests, operator, start, _LENGTHS[cut.period])


def shifted(comparison: Comparison, relation: Relation) -> Bounds | None:
    """Return the bound that a comparison sets for a column of moments in a sum or difference.

    None if it is anything else, or if days are added that need not have 24 hours.
    """
    structure = parse(comparison.operand.without_alias())
    value, operator = constant(comparison.other), comparison.operator
    if not isinstance(structure, sql.Add | sql.Sub) or value is None or operator not in _RANGES:
        return None
    sides = (structure.left.unnest(), structure.right.unnest())
    name = next((side.name for side in sides if isinstance(side, sql.Column)), "")
    column = relation.column(name)
    other = next((_literal(side) for side in sides if isinstance(side, sql.Cast)), None)
    if column is None or column.base_type not in {TIMESTAMP, TIMESTAMPTZ} or other is None:
        return None
    zone = "" if column.base_type == TIMESTAMP else None
    alias, tests = comparison.scan.alias or "", (comparison.conjunct.text,)
    if isinstance(structure, sql.Sub) and isinstance(sides[1], sql.Column):
        # What is left of a moment without the column: the days of that have 24 hours.
        if other.type != column.base_type or not _is_interval(value, in_days=True):
            return None
        start = f"{_moment(other)} - make_interval(secs => extract(epoch FROM {_interval(value)}))"
        return Bounds(
            Cut(column, "", ""),
            alias,
            tests,
            FLIPPED.get(operator, operator),
            start,
            "",
            "moment - value",
        )
    in_days = not _is_interval(other, in_days=False)
    if value.type != column.base_type or not _is_interval(other, in_days=True):
        return None
    sign = "-" if isinstance(structure, sql.Add) else "+"
    start = f"{_moment(value)} {sign} {_interval(other)}"
    cut = Cut(column, "", zone if in_days else "")
    return Bounds(cut, alias, tests, operator, start, "", f"value {sign} interval")


def _literal(cast: Structure) -> Constant | None:
    """Return the literal that a cast gives a type."""
    value = cast.this
    if not isinstance(value, sql.Literal):
        return None
    types = {
        sql.DataType.Type.TIMESTAMP: TIMESTAMP,
        sql.DataType.Type.TIMESTAMPTZ: TIMESTAMPTZ,
        sql.DataType.Type.INTERVAL: "interval",
    }
    kind = types.get(cast.args["to"].this, "")
    return Constant(value.name, kind)


def _is_interval(value: Constant, *, in_days: bool) -> bool:
    hours = bool(_HOURS.fullmatch(value.value))
    return value.type == "interval" and (hours or (in_days and bool(_DAYS.fullmatch(value.value))))


def _interval(value: Constant) -> str:
    return f"'{value.value}'::interval"


def _moment(value: Constant) -> str:
    # What does not look like a moment is refused by the server.
    return f"{quoted_literal(value.value)}::{value.type}"


def zone_of(cut: Cut) -> str:
    """Return the time zone of a cut as SQL."""
    if cut.zone is None:
        return "current_setting('TimeZone')"
    return quoted_literal(cut.zone)


def _calendar(fields: Mapping[str, tuple[Cut, Comparison, Constant]]) -> Bounds | None:
    """Return the bounds that the numbers of a year, and of its month and day, set together."""
    named = [field for field in CALENDAR if field in fields]
    if tuple(named) != CALENDAR[: len(named)]:
        return None
    cuts = {replace(cut, period="") for cut, _, _ in fields.values()}
    numbers = [fields[field][2].value for field in named]
    if len(cuts) > 1 or not all(map(_WHOLE.fullmatch, numbers)):
        return None
    try:
        # What is not named is the first of its period.
        year, month, day = (*(int(number.partition(".")[0]) for number in numbers), 1, 1)[:3]
        begins = datetime.date(year, month, day)
    except ValueError:
        return None
    cut, comparison, _ = fields[named[-1]]
    tests = tuple(fields[field][1].conjunct.text for field in named)
    alias = comparison.scan.alias or ""
    start = f"'{begins.isoformat()}'::timestamp"
    return Bounds(cut, alias, tests, comparison.operator, start, _LENGTHS[cut.period])

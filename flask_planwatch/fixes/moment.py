"""A half-open range on the bare column in place of a function of a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..finding import Advice, Verdict
from ..indexes.candidate import column_key
from ..plan.evidence import Hit
from ..plan.moment import FIXED_ZONES, TIMESTAMP, TIMESTAMPTZ, Bounds, bounds, shifted
from ..plan.schema import Structural
from ..plan.text import quoted_literal
from ..server.explain import quoted
from ..server.transaction import Transaction, may_be_refused
from .alone import NewForm, verdict_alone
from .case import Case
from .form import PYTHON_OPERATORS, Form, attribute_of

#: The smallest step from one moment to the next.
_STEPS = {TIMESTAMP: "1 microsecond", TIMESTAMPTZ: "1 microsecond", "date": "1 day"}

_ON_RANGE = "A range on the bare column can use a plain index on {column}"

_EXACT = Form(
    "compare {column} with a half-open range: {condition}; start is the beginning of the {period} "
    "that is compared with, end that of the next",
    f"{_ON_RANGE}; work out both ends in Python[, in the time zone {{zone}}].",
    ".where({code})",
)
_BETWEEN = Form(
    "compare {column} with a half-open range: {column} >= start AND {column} < end; start and end "
    "are the beginnings of the two {period}s that are compared with",
    _EXACT.explanation,
    _EXACT.code,
)
_BESIDE = Form(
    "compare {column} with a range, too, beside the condition: {condition}; start is the beginning "
    "of the {period} that is compared with, end that of the next, both in UTC",
    f"{_ON_RANGE}, and the condition tests the few rows that this finds. The range is a day wider "
    "on each side, so that no time zone and no change of the clock leaves out a matching row.",
    ".where({code}, condition)",
)
_MOMENT = Form(
    "compare {column} with a moment instead of a number of seconds: {condition}",
    "The bare column can use a plain index on {column}.",
    ".where({code})",
)
_OTHER_SIDE = Form(
    "move the arithmetic to the other side, so that {column} stands alone: {condition}",
    "What does not depend on the row is computed once, and {column} can use a plain index.",
    ".where({code})",
)

#: The ends of a range, by the operators of the comparisons.
_WORDS = {
    "=": (_EXACT, (">= start", "< end")),
    ">=": (_EXACT, (">= start",)),
    "<": (_EXACT, ("< start",)),
    ">": (_EXACT, (">= end",)),
    "<=": (_EXACT, ("< end",)),
    "<=>=": (_EXACT, (">= start", "< end")),
    "<>=": (_BETWEEN, (">= start", "< end")),
}


@dataclass(frozen=True)
class _Range:
    """The range of a column that finds the same rows as some comparisons.

    `starts` and `ends` are the ends of the range, as SQL without functions; a range may have
    several of each. `beside`: the range is wider, so that the comparisons have to stay.
    """

    bounds: tuple[Bounds, ...]
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    beside: bool

    def condition(self, column: str) -> str:
        """Return it as SQL, for the planner."""
        tests = [f"{column} >= {start}" for start in self.starts]
        return " AND ".join([*tests, *(f"{column} < {end}" for end in self.ends)])


def range_on_column(case: Case, hit: Hit) -> NewForm | None:
    """Return the advice to compare a bare column with a range, None if there is none that is equal.

    The server has checked the ends of the range. The advice is verified if the planner uses an
    index on the column for it, or reads fewer partitions. Raises ServerError if the connection
    fails.
    """
    suspicion = hit.suspicion
    comparisons = suspicion.comparisons
    found = bounds(comparisons, suspicion.relation)
    if not found and len({tested.said for tested in comparisons}) == 1:
        moved = shifted(suspicion.comparison, suspicion.relation)
        found = (moved,) if moved is not None else ()
    if not found or len({bound.cut.column.name for bound in found}) > 1:
        return None
    span = None
    with may_be_refused(), case.session.transaction() as transaction:
        ((zone,),) = transaction.fetch("SELECT current_setting('TimeZone')")
        span = _checked(transaction, found, str(zone))
    if span is None:
        return None
    column = found[0].cut.column
    condition = span.condition(column.quoted_name)
    verdict = verdict_alone(case, hit, column, condition)
    advice = None if verdict is None else _advice(case, hit, span, verdict, str(zone))
    if advice is None:
        return None
    return NewForm(advice, condition, column_key(suspicion.relation, column.name))


def _checked(transaction: Transaction, found: Sequence[Bounds], zone: str) -> _Range | None:
    """Return the range, None if the server does not confirm that it is the same.

    A wider one, beside which the comparisons stay, needs no confirmation.
    """
    beside = any(_is_uneven(bound, zone) for bound in found)
    if beside and not all(bound.length for bound in found):
        return None
    starts, ends = [], []
    for bound in found:
        kind = bound.cut.column.base_type
        start, end = _beside(bound) if beside else _exact(bound, zone)
        texts = f"({start})::{kind}::text, ({end})::{kind}::text"
        checks = ["true"] if beside else _checks(bound, start, end)
        ((first, last, same),) = transaction.fetch(f"SELECT {texts}, {' AND '.join(checks)}")
        if not same:
            return None
        # From which moment on it is, and up to which.
        first, last = (f"'{text}'::{kind}" for text in (first, last))
        if bound.has_start:
            starts.append(last if bound.operator == ">" and not beside else first)
        if bound.has_end:
            ends.append(first if bound.operator == "<" and not beside else last)
    return _Range(tuple(found), tuple(starts), tuple(ends), beside)


def _is_uneven(bound: Bounds, zone: str) -> bool:
    """Whether a day may begin twice, or not at all, in the time zone that matters."""
    named = zone if bound.cut.zone is None else bound.cut.zone
    return bool(named) and named.upper() not in FIXED_ZONES


def _exact(bound: Bounds, zone: str) -> tuple[str, str]:
    """Return the first moment of the period and that of the next, in the column's type."""
    kind = bound.cut.column.base_type
    step = bound.length or _STEPS[kind]
    ends = (f"({bound.start})", f"({bound.start} + interval '{step}')")
    if kind == TIMESTAMPTZ and bound.length:
        named = quoted_literal(bound.cut.zone or zone)
        ends = (f"({ends[0]} AT TIME ZONE {named})", f"({ends[1]} AT TIME ZONE {named})")
    return ends


def _beside(bound: Bounds) -> tuple[str, str]:
    """Return the ends of a range that holds the period in every time zone."""
    start = f"(({bound.start} - interval '1 day') AT TIME ZONE 'UTC')"
    end = f"(({bound.start} + interval '{bound.length}' + interval '1 day') AT TIME ZONE 'UTC')"
    return start, end


def _checks(bound: Bounds, start: str, end: str) -> list[str]:
    """Return what is true if the comparison holds from one end of the range up to the other."""
    kind = bound.cut.column.base_type
    step = f"interval '{_STEPS[kind]}'"

    def holds(moment: str) -> str:
        row = f"SELECT ({moment})::{kind} AS {quoted(bound.cut.column.name)}"
        tests, alias = " AND ".join(bound.tests), quoted(bound.alias)
        return f"coalesce((SELECT {tests} FROM ({row}) {alias}), false)"

    checks = []
    if bound.has_start:
        first = end if bound.operator == ">" else start
        checks += [holds(first), f"NOT {holds(f'{first} - {step}')}"]
    if bound.has_end:
        last = start if bound.operator == "<" else end
        checks += [holds(f"{last} - {step}"), f"NOT {holds(last)}"]
    return checks


def _advice(case: Case, hit: Hit, span: _Range, verdict: Verdict, zone: str) -> Advice | None:
    """Return the range in words, None if there are none for so many ends."""
    cut = span.bounds[0].cut
    relation = hit.suspicion.relation
    attribute = attribute_of(cut.column.name, relation.name, case.mapped(relation))
    ends = _ends(span)
    if ends is None:
        return None
    form, tests = ends
    named = cut.zone or zone if cut.column.base_type == TIMESTAMPTZ else ""
    facts = {
        "column": cut.column.quoted_name,
        "period": cut.period,
        "zone": Structural(named),
        "condition": " AND ".join(f"{cut.column.quoted_name} {end}" for end, _ in tests),
        "code": ", ".join(f"{attribute} {end}" for _, end in tests),
    }
    return form.advice(verdict, **facts)


def _ends(span: _Range) -> tuple[Form, list[tuple[str, str]]] | None:
    """Return how to say a range, and the tests of the column in SQL and in Python."""
    operators = [bound.operator for bound in span.bounds]
    if not span.bounds[0].length:
        form, sql, python = _point(span.bounds[0])
        return form, [
            (f"{operator} {sql}", f"{PYTHON_OPERATORS[operator]} {python}")
            for operator in operators
        ]
    if span.beside:
        tests = [(">= start - 1 day", ">= start - timedelta(days=1)")] if span.starts else []
        tests += [("< end + 1 day", "< end + timedelta(days=1)")] if span.ends else []
        return _BESIDE, tests
    said = _WORDS.get("".join(sorted(operators)))
    return (said[0], [(end, end) for end in said[1]]) if said is not None else None


def _point(one: Bounds) -> tuple[Form, str, str]:
    """Return how to say a point in time, in SQL and in Python."""
    if one.cut.period:
        aware = one.cut.column.base_type == TIMESTAMPTZ
        moment = "datetime.fromtimestamp(value, UTC)"
        python = moment if aware else f"{moment}.replace(tzinfo=None)"
        sql = "to_timestamp(value)" if aware else "to_timestamp(value) AT TIME ZONE 'UTC'"
        return _MOMENT, sql, python
    return _OTHER_SIDE, one.words, one.words

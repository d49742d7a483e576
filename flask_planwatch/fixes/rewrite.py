"""Another way to write a condition whose expression no index may hold."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import expressions as sql

from ..finding import Advice, Verdict, VerdictStatus
from ..indexes.mapped import MappedTable
from ..plan.dialect import Structure
from ..plan.evidence import Hit
from ..plan.predicate import FLIPPED, parse, tokenize
from ..plan.schema import Column, ExpressionFacts
from ..plan.scrub import LITERALS, is_structural
from .form import MOMENTS, PYTHON_OPERATORS, Form, attribute_of

#: The verdict on a rewrite.
NO_INDEX_TO_TRY = "a rewrite changes the statement, so there is no index for the planner to try"

_REFUSED = "PostgreSQL refuses an index on this expression, because {reason}."

_WITH_VALUE = Form(
    "store what is looked up in {columns:and} in a column of its own: an index on the expression "
    "would serve one value only",
    "Store what is looked up by a changing key in a column, or in rows, of its own. If the value "
    "is always the same, an index on the expression with it serves.",
)
_WITH_VALUE_VERDICT = "an index holds the expression with one constant, and here that is a value"

_WITH_LITERAL = Form(
    "create an index on {expression}, with what the SQL has for ?",
    "The value is written in the statement, so that an index on the expression with the same value "
    "serves it. PlanWatch shows no values, so that it leaves the SQL to you. If the application "
    "puts another value into the text each time, store what is looked up in a column of its own.",
)
_WITH_LITERAL_VERDICT = "an index with a value is not tried"

_ON_BARE_COLUMN = "The bare column can use a plain index on {column}."
_ON_RANGE = (
    "A range on the bare column can use a plain index on {column}; work out both ends in Python, "
    "in the time zone that is meant."
)

_HALF_OPEN_RANGE = Form(
    "compare {column} with a half-open range: {condition}; start is the beginning of the {period} "
    "that is compared with, end that of the next",
    _ON_RANGE,
    "{code}",
)
_RANGE_FOR_PATTERN = Form(
    "compare {column} with a half-open range instead of a pattern: {column} >= start AND {column} "
    "< end",
    _ON_RANGE,
    ".where({attribute} >= start, {attribute} < end)",
)
_VALUES_FOR_PATTERN = Form(
    "compare {column} with the values that the pattern stands for, in its own type, {type}: "
    "{column} IN (…)",
    _ON_BARE_COLUMN,
    ".where({attribute}.in_(values))  # values of the column's own type",
)
_OWN_TYPE = Form(
    "compare {column} in its own type, {type}, without the cast",
    _ON_BARE_COLUMN,
    ".where({attribute} {python} value)  # value of the column's own type",
)
_OWN_TYPE_OF_SEVERAL = replace(_OWN_TYPE, code=_VALUES_FOR_PATTERN.code)
_CONFIGURATION = Form(
    "name the configuration of the full text search on both sides: to_tsvector('english', {column})"
    " @@ websearch_to_tsquery('english', …)",
    "Without a name, both sides are made by the setting default_text_search_config of the session. "
    "With one, to_tsvector is IMMUTABLE, and a GIN index on that expression is possible; write the "
    "configuration in which the texts are, and the same in the index.",
    '.where(func.to_tsvector("english", {attribute})'
    '.bool_op("@@")(func.websearch_to_tsquery("english", value)))',
)
_OTHER_SIDE = Form(
    "move the arithmetic to the other side, so that {column} stands alone: {column} {operator} "
    "{other}",
    "What does not depend on the row is computed once, and {column} can use a plain index.",
    ".where({attribute} {python} {other})",
)
_TIME_ZONE = Form(
    "name the time zone: ask for EXTRACT(… FROM {column} AT TIME ZONE '…')",
    "With a time zone of its own the expression does not depend on the session, so that it is "
    "IMMUTABLE and can be indexed.",
)
_CONCAT = Form(
    "compare {columns:and} one by one, or join them with || instead of concat()",
    "concat() is STABLE because it takes any type; the operator || on text columns is IMMUTABLE, "
    "so an index on that expression is possible.",
)
_ALONE = Form(
    "compare {columns:and} alone, and work out the value to compare with before the statement",
    "If the function always gives the same result for the same arguments, declaring it IMMUTABLE "
    "allows an index on the expression, or a generated column.",
)

#: What to_char makes of a moment from the year down, and the period that it names.
_PERIODS = {"YYYY": "year", "YYYY-MM": "month", "YYYYMM": "month", "YYYY-MM-DD": "day"}

#: Comparisons of a text with a pattern.
_PATTERNS = frozenset({"~~", "~~*", "~", "~*", "^@"})

#: The ends of a period between which a moment is that is compared with it.
_ENDS = {">=": (">= start",), "<": ("< start",), ">": (">= end",), "<=": ("< end",)}
_BOTH_ENDS = (">= start", "< end")


def rewrite(hit: Hit, facts: ExpressionFacts, mapped: MappedTable | None) -> Advice:
    """Return the advice for an expression that is STABLE or VOLATILE."""
    form, said = _best(hit, mapped)
    return replace(form, explanation=f"{_REFUSED} {form.explanation}").advice(
        Verdict(VerdictStatus.NOT_APPLICABLE, NO_INDEX_TO_TRY), reason=facts.reason, **said
    )


def is_written(expression: str, statement: str) -> bool:
    """Whether each value in an expression is a literal of the statement, and no parameter."""
    reading = tokenize(expression)
    values = [
        token.text
        for place, token in enumerate(reading.tokens)
        if token.token_type in LITERALS and not is_structural(reading, place)
    ]
    return bool(values) and all(_literal_in(statement, value) for value in values)


def _literal_in(statement: str, value: str) -> bool:
    """Whether a statement has this value as text in quotes or as a number."""
    quoted = "'{}'".format(value.replace("'", "''"))
    number = value.isdecimal() and re.search(rf"(?<![\w.$'%]){value}(?![\w.'])", statement)
    return quoted in statement or bool(number)


def rewrite_with_literal(hit: Hit) -> Advice:
    """Return the advice for an expression with a value that is written in the statement."""
    verdict = Verdict(VerdictStatus.UNTESTED, _WITH_LITERAL_VERDICT)
    return _WITH_LITERAL.advice(verdict, expression=hit.suspicion.shown)


def rewrite_with_value(hit: Hit) -> Advice:
    """Return the advice for an expression that holds a value, not only structural constants."""
    verdict = Verdict(VerdictStatus.NOT_APPLICABLE, _WITH_VALUE_VERDICT)
    return _WITH_VALUE.advice(verdict, columns=hit.suspicion.operand.column_names)


def _best(hit: Hit, mapped: MappedTable | None) -> tuple[Form, dict[str, object]]:
    """Return how to write the condition instead, with the facts."""
    operand, relation = hit.suspicion.operand, hit.suspicion.relation
    names = operand.column_names
    structure = parse(operand.without_alias())
    if isinstance(structure, sql.Anonymous) and structure.name.lower() in {"concat", "concat_ws"}:
        return _CONCAT, {"columns": names}
    column = relation.column(names[0]) if len(names) == 1 else None
    if structure is None or column is None:
        return _ALONE, {"columns": names}
    attribute = attribute_of(column.name, relation.name, mapped)
    form, said = _on_column(structure, column, attribute, hit.suspicion.comparison.operator)
    facts = {"columns": names, "column": column.name, "type": column.type, "attribute": attribute}
    return form, facts | said


def _on_column(
    structure: Structure, column: Column, attribute: str, operator: str
) -> tuple[Form, dict[str, object]]:
    """Return how to compare a column instead of an expression, with further facts."""
    is_moment = column.type.startswith(MOMENTS)
    if operator == "@@":
        return _CONFIGURATION, {}
    if operator in _PATTERNS:
        return _RANGE_FOR_PATTERN if is_moment else _VALUES_FOR_PATTERN, {}
    if is_moment:
        if (period := _period(structure)) is not None:
            return _HALF_OPEN_RANGE, _half_open_range(column.name, attribute, period, operator)
        if isinstance(structure, sql.Add | sql.Sub):
            return _OTHER_SIDE, _other_side(structure, operator)
        return _TIME_ZONE, {}
    if isinstance(structure, sql.Cast) and isinstance(structure.this.unnest(), sql.Column):
        if operator == "= ANY":
            return _OWN_TYPE_OF_SEVERAL, {}
        return _OWN_TYPE, {"python": PYTHON_OPERATORS.get(operator, operator)}
    return _ALONE, {}


def _period(structure: Structure) -> str | None:
    """Return the period of time that the expression cuts a moment down to, or None.

    Only a period that has one beginning and one end is a range: the month of any year is none.
    """
    if isinstance(structure, sql.Cast) and structure.to.this is sql.DataType.Type.DATE:
        return "day"
    if isinstance(structure, sql.Extract):
        return "year" if structure.this.name.lower() == "year" else None
    if not isinstance(structure, sql.Anonymous):
        return None
    literal = structure.find(sql.Literal)
    named = literal.name if literal else ""
    periods = {
        "date": "day",
        "date_trunc": named,
        "date_part": "year" if named == "year" else None,
        "to_char": _PERIODS.get(named),
    }
    return periods.get(structure.name.lower())


def _half_open_range(column: str, attribute: str, period: str, operator: str) -> dict[str, object]:
    """Return how to compare the column with the `start` and `end` of the period."""
    ends = _ENDS.get(operator, _BOTH_ENDS)
    condition = " AND ".join(f"{column} {end}" for end in ends)
    code = ", ".join(f"{attribute} {end}" for end in ends)
    if operator not in {"=", *_ENDS}:
        condition = f"({condition}) OR …, a range for each value"
        code = f"or_(*(and_({code}) for start, end in …))"
    return {"condition": condition, "code": f".where({code})", "period": period}


def _other_side(structure: sql.Add | sql.Sub, operator: str) -> dict[str, object]:
    """Return what a moment is compared with if the arithmetic is on the other side."""
    operator = {"= ANY": "="}.get(operator, operator)
    if isinstance(structure, sql.Add):
        other = "value - interval"
    elif structure.left.find(sql.Column):
        other = "value + interval"
    else:
        # moment - column < interval means column > moment - interval.
        operator, other = FLIPPED.get(operator, operator), "moment - value"
    python = PYTHON_OPERATORS.get(operator, operator)
    return {"operator": operator, "python": python, "other": other}

"""The comparison in a column's own type, in place of one that casts the column."""

from __future__ import annotations

import re
from dataclasses import replace

from ..finding import Advice, Verdict, VerdictStatus
from ..indexes.mapped import MappedTable
from ..plan.evidence import Hit
from ..plan.wording import say, sentences
from .form import PYTHON_OPERATORS, Form, attribute_of

#: A type's Python class, and the SQLAlchemy type that has the server take a value for it.
_TYPES = {
    "smallint": ("int", "SmallInteger"),
    "integer": ("int", "Integer"),
    "bigint": ("int", "BigInteger"),
    "numeric": ("Decimal", "Numeric"),
    "real": ("float", "REAL"),
    "double precision": ("float", "Double"),
    "text": ("str", "Text"),
    "character varying": ("str", "String"),
    # Without a length, CHAR is a single character.
    "character": ("str", "String"),
    "citext": ("str", "CITEXT"),
    "time without time zone": ("time", "Time"),
}

#: A type of texts, as SQL has it.
_TEXT_NAMES = frozenset({"char", "character", "bpchar", "text", "varchar"})

#: A cast by CAST() of a parameter; SQLAlchemy writes its own casts of parameters with two colons.
_CAST_OF_PARAMETER = re.compile(r"\bCAST\s*\(\s*[%$:][^\s,]*\s+AS\s+(\w+)", re.IGNORECASE)

_NUMBERS = frozenset({"int", "Decimal", "float"})

#: What rounds a value so that a range of integers begins and ends where it did.
_ROUNDING = {
    **dict.fromkeys((">", "<="), "math.floor(value)"),
    **dict.fromkeys((">=", "<"), "math.ceil(value)"),
}

_ONE_TYPE = Form(
    "make {other_table}.{other_column} {type}, as {column} is",
    "An index on {column} serves a join only if both columns have its type. Changing a column's "
    "type rewrites its table under a lock. If the other column needs its type, change {column} "
    "instead.",
    "[mapped_column({sqlalchemy})  # {other_column} of {other_table}, and a migration]",
)
_TOO_LARGE = Form(
    "compare {column} as {type}: do not look for an int that it cannot hold",
    "Refuse such a value where it comes in, such as in the route or the form.",
)
_PASS = Form("compare {column} as {type}: pass {python:an}, not {given:or_an}", code="{code}")
_PASS_NUMBER = replace(
    _PASS,
    summary=f"{_PASS.summary}, and leave out the cast",
    explanation="{python}() raises an error for a text that is no number, and takes '07' for 7.",
)
_PASS_DECIMAL = replace(
    _PASS,
    explanation="Without str() the Decimal has all digits of the binary fraction, as in "
    "0.1000000000000000055511151231257827.",
)
_PASS_INT = replace(_PASS, explanation="{fractions}")
_DECLARE = Form(
    "compare {column} as {type}: declare the column as {sqlalchemy}, or the value",
    "{ignored}",
    "{code}",
)
_CHANGE_CAST = replace(
    _DECLARE,
    summary="compare {column} as {type}: drop or change the cast of the value in the SQL",
)
_CAST = Form(
    "compare {column} as {type}: cast the other side, which is {cast_type}, instead of the column",
    code="{code}",
)
_CAST_TO_INT = replace(
    _CAST,
    explanation="A cast to an integer rounds: use func.floor() or func.ceil() if a fraction is "
    "possible.",
)

#: How an integer is made of a value, and what becomes of its fraction.
_INT = "int(value)"
_CUTS_OFF = (
    "int() cuts a fraction off, but a value with a fraction equals no integer: look for nothing if "
    "int(value) != value."
)
_KEEPS_RANGE = "math.floor() and math.ceil() leave the range as it was."

_USED = (
    "without the cast the planner used {served_by} for this predicate alone, with sequential scans "
    "off"
)
_WAS_COMPUTED = (
    "{expression} was computed row by row, and {column} alone was an index condition of {served_by}"
)
_NOT_USED = "the planner did not use {indexes_on_column:or} for the bare column either"
_NO_INDEX = (
    "there is no index on {column} that could prove it; missing-index speaks of that once the "
    "types agree"
)

_CASE_AND_SPACES = {
    "citext": "In its own type the comparison ignores case, as the column is meant to.",
    "character": "In its own type the comparison ignores spaces at the end.",
}


def own_type(hit: Hit, mapped: MappedTable | None, statement: str) -> Advice:
    """Return the advice for a column that is cast because of what it is compared with.

    `statement` is the SQL as the driver got it, with its placeholders.
    """
    facts, relation = hit.evidence, hit.suspicion.relation
    attribute = attribute_of(hit.suspicion.operand.column_names[0], relation.name, mapped)
    base = facts["column_type"].partition("(")[0]
    python, sqlalchemy = _TYPES.get(base, ("", ""))
    form, value = _form(hit, python, sqlalchemy or f"{attribute}.type", statement)
    other = facts["other_column"] or {"table": "", "column": ""}
    return form.advice(
        _verdict(hit),
        column=f"{relation.display}.{facts['column']}",
        type=facts["column_type"],
        cast_type=facts["cast_type"],
        given=facts["value_types"],
        python=python,
        sqlalchemy=sqlalchemy,
        code=_where(hit, attribute, value),
        fractions=_about_fractions(hit),
        ignored=_CASE_AND_SPACES.get(base, ""),
        other_table=other["table"],
        other_column=other["column"],
    )


def _form(hit: Hit, python: str, target: str, statement: str) -> tuple[Form, str]:
    """Return what to change, and the value to compare with then as Python.

    `python` is the class for the column's type, "" if it is not known, and `target` what
    SQLAlchemy calls that type.
    """
    given = hit.evidence["value_types"]
    if hit.evidence["other_column"] is not None:
        return _ONE_TYPE, ""
    if python == "int" and given == ["int"]:
        return _TOO_LARGE, ""
    if not python or not given:
        return _CAST_TO_INT if python == "int" else _CAST, f"cast(value, {target})"
    if python in _NUMBERS and given == ["str"]:
        return _PASS_NUMBER, f"{python}(value)"
    if python == "int":
        return _PASS_INT, _INT
    if python == "Decimal":
        return _PASS_DECIMAL, "Decimal(str(value))"
    if python in given:
        in_sql = python == "str" and _casts_a_text(statement)
        return _CHANGE_CAST if in_sql else _DECLARE, f"literal(value, {target})"
    return _PASS, f"{python}(…)"


def _casts_a_text(statement: str) -> bool:
    """Whether the statement itself casts a parameter to a type of texts."""
    return any(found[1].lower() in _TEXT_NAMES for found in _CAST_OF_PARAMETER.finditer(statement))


def _about_fractions(hit: Hit) -> str:
    operators = {comparison.operator for comparison in hit.suspicion.comparisons}
    return sentences(
        _CUTS_OFF if operators & {"=", "= ANY"} else "",
        _KEEPS_RANGE if operators & set(_ROUNDING) else "",
    )


def _where(hit: Hit, attribute: str, value: str) -> str:
    """Return the comparisons with a value as SQLAlchemy code."""
    conditions = []
    for operator in (comparison.operator for comparison in hit.suspicion.comparisons):
        other = _ROUNDING.get(operator, value) if value == _INT else value
        if operator == "= ANY":
            conditions.append(f"{attribute}.in_([{other} for value in values])")
        else:
            conditions.append(f"{attribute} {PYTHON_OPERATORS.get(operator, operator)} {other}")
    return f".where({', '.join(dict.fromkeys(conditions))})"


def _verdict(hit: Hit) -> Verdict:
    """Return what the plan of the predicate alone, in the column's own type, proves."""
    facts = hit.evidence | {"expression": hit.suspicion.shown}
    if facts["served_by"]:
        proof = (say(_WAS_COMPUTED, **facts),)
        return Verdict(VerdictStatus.VERIFIED, say(_USED, **facts), proof=proof)
    reason = _NOT_USED if facts["indexes_on_column"] else _NO_INDEX
    return Verdict(VerdictStatus.NOT_APPLICABLE, say(reason, **facts))

"""The comparison in a column's own type, in place of one that casts the column."""

from __future__ import annotations

from collections.abc import Callable

from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..plan.evidence import Hit
from .mapped import MappedTable
from .rewrite import attribute_of

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

_NUMBERS = frozenset({"int", "Decimal", "float"})

#: What rounds a value so that a range of integers begins and ends where it did.
_ROUNDING = {">": "math.floor", "<=": "math.floor", ">=": "math.ceil", "<": "math.ceil"}

#: What a comparison with a text of numbers finds that the number itself does not tell apart.
_NOT_A_NUMBER = "{} raises an error for a text that is no number, and takes '07' for 7."

_CASE_AND_SPACES = {
    "citext": "In its own type the comparison ignores case, as the column is meant to.",
    "character": "In its own type the comparison ignores spaces at the end.",
}


def own_type(hit: Hit, mapped: MappedTable | None) -> Advice:
    """Return the advice for a column that is cast because of what it is compared with."""
    facts, relation = hit.evidence, hit.suspicion.relation
    name = hit.suspicion.operand.column_names[0]
    shown = f"{relation.display}.{facts['column']}"
    attribute = attribute_of(name, relation.name, mapped)
    if facts["other_column"] is not None:
        summary, code, explanation = _one_type(hit, shown)
    elif facts["value_types"]:
        summary, code, explanation = _pass_own_type(hit, shown, attribute)
    else:
        summary, code, explanation = _cast_the_other_side(hit, shown, attribute)
    return Advice(
        kind=AdviceKind.REWRITE,
        summary=summary,
        verdict=_verdict(hit),
        sqlalchemy=code,
        explanation=explanation,
    )


def _one_type(hit: Hit, shown: str) -> tuple[str, str, str]:
    """Say that two columns that are joined need one type."""
    facts = hit.evidence
    other, own = facts["other_column"], facts["column_type"]
    _, sqlalchemy = _types(own)
    return (
        f"make {other['table']}.{other['column']} {own}, as {shown} is",
        f"mapped_column({sqlalchemy})  # {other['column']} of {other['table']}, and a migration"
        if sqlalchemy
        else "",
        f"An index on {shown} serves a join only if both columns have its type. Changing a "
        "column's type rewrites its table under a lock. If the other column needs its type, "
        f"change {shown} instead.",
    )


def _pass_own_type(hit: Hit, shown: str, attribute: str) -> tuple[str, str, str]:
    """Say which Python type the value should be of."""
    facts = hit.evidence
    python, sqlalchemy = _types(facts["column_type"])
    given = " or ".join(_with_article(name) for name in facts["value_types"])
    lead = f"compare {shown} as {facts['column_type']}"
    if python == "int" and facts["value_types"] == ["int"]:
        return (
            f"{lead}: do not look for an int that it cannot hold",
            "",
            "Refuse such a value where it comes in, such as in the route or the form.",
        )
    summary = f"{lead}: pass {_with_article(python)}, not {given}"
    if python in _NUMBERS and facts["value_types"] == ["str"]:
        call = f"{python}(value)"
        return (
            f"{summary}, and leave out the cast",
            _where(hit, attribute, lambda _: call),
            _NOT_A_NUMBER.format(f"{python}()"),
        )
    if python == "int":
        return summary, _where(hit, attribute, _integer), _about_fractions(hit)
    if python == "Decimal":
        return (
            summary,
            _where(hit, attribute, lambda _: "Decimal(str(value))"),
            "Without str() the Decimal has all digits of the binary fraction, as in "
            "0.1000000000000000055511151231257827.",
        )
    if python in facts["value_types"]:
        return (
            f"{lead}: declare the column as {sqlalchemy}, or the value",
            _where(hit, attribute, lambda _: f"literal(value, {sqlalchemy})"),
            _CASE_AND_SPACES.get(facts["column_type"].partition("(")[0], ""),
        )
    if python:
        return summary, _where(hit, attribute, lambda _: f"{python}(…)"), ""
    return _cast_the_other_side(hit, shown, attribute)


def _cast_the_other_side(hit: Hit, shown: str, attribute: str) -> tuple[str, str, str]:
    """Say that what the column is compared with should be cast instead."""
    facts = hit.evidence
    python, sqlalchemy = _types(facts["column_type"])
    target = sqlalchemy or f"{attribute}.type"
    return (
        f"compare {shown} as {facts['column_type']}: cast the other side, which is "
        f"{facts['cast_type']}, instead of the column",
        _where(hit, attribute, lambda _: f"cast(value, {target})"),
        "A cast to an integer rounds: use func.floor() or func.ceil() if a fraction is possible."
        if python == "int"
        else "",
    )


def _integer(operator: str) -> str:
    return f"{_ROUNDING.get(operator, 'int')}(value)"


def _about_fractions(hit: Hit) -> str:
    operators = {comparison.operator for comparison in hit.suspicion.comparisons}
    sentences = []
    if operators & {"=", "= ANY"}:
        sentences.append(
            "int() cuts a fraction off, but a value with a fraction equals no integer: look for "
            "nothing if int(value) != value."
        )
    if operators & set(_ROUNDING):
        sentences.append("math.floor() and math.ceil() leave the range as it was.")
    return " ".join(sentences)


def _where(hit: Hit, attribute: str, value: Callable[[str], str]) -> str:
    """Return the comparisons as SQLAlchemy code; `value` tells what to compare with."""
    conditions = []
    for comparison in hit.suspicion.comparisons:
        operator = comparison.operator
        if operator == "= ANY":
            conditions.append(f"{attribute}.in_([{value(operator)} for value in values])")
        else:
            python = "==" if operator == "=" else operator
            conditions.append(f"{attribute} {python} {value(operator)}")
    return f".where({', '.join(dict.fromkeys(conditions))})"


def _verdict(hit: Hit) -> Verdict:
    """Return what the plan of the predicate alone, in the column's own type, proves."""
    facts = hit.evidence
    if index := facts["served_by"]:
        return Verdict(
            VerdictStatus.VERIFIED,
            f"without the cast the planner used {index} for this predicate alone, with sequential "
            "scans off",
            proof=(
                f"{hit.suspicion.shown} was computed row by row, and {facts['column']} alone "
                f"was an index condition of {index}",
            ),
        )
    existing = facts["indexes_on_column"]
    if existing:
        reason = f"the planner did not use {' or '.join(existing)} for the bare column either"
    else:
        reason = (
            f"there is no index on {facts['column']} that could prove it; missing-index speaks of "
            "that once the types agree"
        )
    return Verdict(VerdictStatus.NOT_APPLICABLE, reason)


def _types(type_name: str) -> tuple[str, str]:
    """Return the Python class and the SQLAlchemy type of a type, or two empty texts."""
    return _TYPES.get(type_name.partition("(")[0], ("", ""))


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"

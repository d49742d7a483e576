"""The comparison in a column's own type, in place of one that casts the column."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from decimal import Decimal, InvalidOperation

from ..finding import Advice, Verdict, VerdictStatus
from ..plan.comparison import constant
from ..plan.evidence import Hit
from ..plan.schema import INTEGERS, TEXT_TYPES, Column, base_type
from ..plan.wording import Template, say, sentences
from ..rules.worth import other_column
from .alone import not_shown, verdict_alone
from .case import Case
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
_FLOATS = frozenset({"real", "double precision"})

#: Up to here a double precision stands for one integer: its fraction has 53 bits.
_EXACT_INTEGERS = 2**53

#: Up to so many digits a double precision stands for one decimal number: DBL_DIG of C.
_EXACT_DIGITS = 15

_DIGITS = re.compile(r"numeric\((\d+),\d+\)")

#: How PostgreSQL writes an integer, and the characters that this takes at most.
_AN_INTEGER = re.compile(r"0|-?[1-9]\d*+")
_LONGEST = {"smallint": 6, "integer": 11, "bigint": 20}
_LENGTH = re.compile(r"\((\d+)\)")

#: What rounds a value so that a range of integers begins and ends where it did.
_ROUNDING = {
    **dict.fromkeys((">", "<="), "math.floor(value)"),
    **dict.fromkeys((">=", "<"), "math.ceil(value)"),
}

#: The same for a value that only the server knows. A bigint can be compared with each of them.
_ROUNDING_IN_SQL = {
    **dict.fromkeys((">", "<="), "cast(func.floor(value), BigInteger)"),
    **dict.fromkeys((">=", "<"), "cast(func.ceil(value), BigInteger)"),
}

_ONE_TYPE = Form(
    "make {other_table}.{other_column} {type}, as {column} is",
    "An index on {column} serves a join only if both columns have its type. Changing a column's "
    "type rewrites its table under a lock. If the other column needs its type, change {column} "
    "instead.",
    "[mapped_column({sqlalchemy})  # {other_column} of {other_table}, and a migration]",
)
NEITHER = Form(
    "compare {column} with {other}, and cast neither to text",
    "The bare column can use a plain index on {column}, and none is needed on its text. Two values "
    "of {types:and} are equal exactly if their texts are.",
    "{attribute} == {other_attribute}  # without the casts",
)
_TOO_LARGE = Form(
    "compare {column} as {type}: reject values outside its range first",
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
    "compare {column} as {type}: declare the column as {sqlalchemy}, or the value", code="{code}"
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
    explanation=(
        "A cast to an integer rounds, and would find other rows.[ {fractions}] A number that no "
        "bigint can hold is an error."
    ),
)
_BESIDE = Form(
    "compare {column} as {type}, too, beside the comparison as {cast_type}",
    'An index finds the rows by the new condition, and the old one ("condition" in the code) tests '
    "these few, so that the same rows are found as now.[ {alone}]",
    "{code}",
)

#: Types of which no two equal values have different texts, nor different ones the same text.
_ONE_TEXT = frozenset(
    {"uuid", "date", "boolean", "oid", "macaddr", "macaddr8", "time without time zone"}
    | {"timestamp without time zone", "timestamp with time zone"}
)

#: How an integer is made of a value, and what becomes of its fraction.
_INT = "int(value)"
_INT_IN_SQL = "case((func.floor(value) == value, cast(value, BigInteger)))"
_NO_FRACTION = "A value with a fraction equals no integer, so nothing is found."
_IN_RANGE = "Refuse a value that {type} cannot hold: as an int, it would be an error."
_KEEPS_RANGE = "{floor} and {ceil} leave the range as it was."

#: A comparison with one value, and with several, as code. `guard` keeps out what has a fraction.
_COMPARED = "{attribute} {operator} {value}[ if {guard} else false()]"
_IN = "{attribute}.in_([[{value} for value in values[ if {guard}]]])"

#: What a comparison in the column's own type would find without the old one beside it.
_ALONE = {
    "citext": "Alone it ignores case, as a citext is meant to: if that is what you want, declare "
    "the column as CITEXT and leave the old condition out.",
    "character": "Alone it ignores spaces at the end, as character is meant to.",
    "numeric": "Alone it finds 7.0 for 7 as well. Decimal() raises an error for a text that is no "
    "number.",
}
_ALONE_FLOAT = (
    "Alone it finds 7 for '7.0' as well. float() raises an error for a text that is no number."
)

#: Why a comparison in the column's own type may find other rows than the one with the cast.
_ROUNDED = Template(
    "{column} may hold numbers that equal the value only once they are rounded to {cast_type}, and "
    "those would no longer be found"
)
_NO_REAL = Template("{type} cannot hold the value exactly")
_NOT_THE_TEXT = Template("PostgreSQL writes no number like this text, so no row matches it")
_SPACES = Template("texts that differ by spaces at their end would no longer be found")
_OTHER_ORDER = Template("{type} has another order than {cast_type}, so the range differs")
_NOT_KNOWN = Template("whether {type} and {cast_type} find the same rows depends on the values")

_USED = (
    "without the cast the planner used {served_by} for this predicate alone, with sequential scans "
    "off"
)
_WAS_COMPUTED = (
    "{expression} was computed row by row, and {column} alone was an index condition of {served_by}"
)


def equal_as_texts(column: Column, other: Column) -> bool:
    """Whether an index on one column finds the other's values, exactly if their texts are equal.

    All integers share a family of operators.
    """
    types = {column.base_type, other.base_type}
    return types <= INTEGERS or (len(types) == 1 and types <= _ONE_TEXT)


def other_facts(case: Case, hit: Hit) -> dict[str, object]:
    """Return what a join of two columns in casts is about, nothing if they are not alike as texts.

    These are the facts of NEITHER, without those of the hit's own column.
    """
    operand, other = hit.suspicion.operand, hit.suspicion.other
    column = hit.suspicion.relation.column(operand.casts[0]) if operand.casts else None
    found = other_column(other, case.evidence, other.casts[0] if other.casts else None)
    if column is None or found is None or hit.suspicion.comparison.operator != "=":
        return {}
    casts = [*(operand.casts or ("", ()))[1], *(other.casts or ("", ()))[1]]
    if not equal_as_texts(column, found[1]) or not TEXT_TYPES.issuperset(casts):
        return {}
    relation = case.schema.root(found[0])
    return {
        "other": f"{relation.display}.{found[1].quoted_name}",
        "other_attribute": attribute_of(found[1].name, relation.name, case.mapped(relation)),
        "types": list(dict.fromkeys((column.base_type, found[1].base_type))),
    }


def own_type(case: Case, hit: Hit) -> Advice:
    """Return the advice for a column that is cast because of what it is compared with.

    Raises ServerError if the connection fails.
    """
    facts, relation = hit.evidence, hit.suspicion.relation
    mapped, statement = case.mapped(relation), case.query.text
    attribute = attribute_of(hit.suspicion.operand.column_names[0], relation.name, mapped)
    base = base_type(facts["column_type"])
    python, sqlalchemy = _TYPES.get(base, ("", ""))
    if alike := other_facts(case, hit):
        said = {"column": facts["column"], "attribute": attribute, **alike}
        return NEITHER.advice(_verdict(case, hit, ""), **said)
    form, value = _form(hit, python, sqlalchemy or f"{attribute}.type", statement)
    beside = _finds_more(hit) and form not in {_ONE_TYPE, _TOO_LARGE}
    if beside:
        form = _BESIDE
    other = facts["other_column"] or {"table": "", "column": ""}
    difference = "" if beside or form in {_ONE_TYPE, _TOO_LARGE} else _difference(hit)
    return form.advice(
        _verdict(case, hit, difference),
        column=f"{relation.display}.{facts['column']}",
        type=facts["column_type"],
        cast_type=facts["cast_type"],
        given=facts["value_types"],
        python=python,
        sqlalchemy=sqlalchemy,
        code=_where(hit, attribute, value, beside=beside),
        fractions=_about_fractions(hit, value),
        alone=_ALONE_FLOAT if python == "float" else _ALONE.get(base, ""),
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
        if python == "int":
            return _CAST_TO_INT, _INT_IN_SQL
        return _CAST, f"cast(value, {target})"
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


def _operators(hit: Hit) -> frozenset[str]:
    return frozenset(comparison.operator for comparison in hit.suspicion.comparisons)


def _about_fractions(hit: Hit, value: str) -> str:
    in_sql = value == _INT_IN_SQL
    functions = ("func.floor()", "func.ceil()") if in_sql else ("math.floor()", "math.ceil()")
    keeps = say(_KEEPS_RANGE, floor=functions[0], ceil=functions[1])
    operators = _operators(hit)
    return sentences(
        _NO_FRACTION if operators & {"=", "= ANY"} else "",
        keeps if operators & set(_ROUNDING) else "",
        "" if in_sql else say(_IN_RANGE, type=hit.evidence["column_type"]),
    )


def _where(hit: Hit, attribute: str, value: str, *, beside: bool) -> str:
    """Return the comparisons with a value as SQLAlchemy code; `beside`: the old ones stay."""
    rounding = {_INT: _ROUNDING, _INT_IN_SQL: _ROUNDING_IN_SQL}.get(value, {})
    # A value with a fraction equals no integer, and int() would make it one.
    whole = "int(value) == value"
    guards = value == _INT and hit.evidence["value_types"] != ["str"]
    conditions = []
    for operator in (comparison.operator for comparison in hit.suspicion.comparisons):
        other = rounding.get(operator, value)
        guard = whole if guards and operator in {"=", "= ANY"} else None
        conditions.append(
            say(
                _IN if operator == "= ANY" else _COMPARED,
                attribute=attribute,
                operator=PYTHON_OPERATORS.get(operator, operator),
                value=other,
                guard=guard,
            )
        )
    if beside:
        conditions.append("condition")
    return f".where({', '.join(dict.fromkeys(conditions))})"


def _finds_more(hit: Hit) -> bool:
    """Whether equality in the column's own type finds all that the cast finds, and perhaps more.

    Equal texts are equal numbers, and are equal without regard to case and to spaces at the end.
    """
    base, target = _types(hit)
    blurred = base in {"citext", "character", "numeric", *_FLOATS} and not _is_cut(hit)
    return blurred and target in TEXT_TYPES and _operators(hit) <= {"=", "= ANY"}


def _is_cut(hit: Hit) -> bool:
    """Whether a cast may cut the end of a value off."""
    base, _ = _types(hit)
    _, types = hit.suspicion.operand.casts or ("", ())
    lengths = [int(found[1]) for name in types if (found := _LENGTH.search(name))]
    return any(length < _LONGEST.get(base, length + 1) for length in lengths)


def _difference(hit: Hit) -> str:
    """Return why the comparison in the column's own type may find other rows, "" if it cannot."""
    base, target = _types(hit)
    other = constant(hit.suspicion.other)
    values = other.members if other is not None else ()
    reason: str = ""
    if base in INTEGERS and target == "double precision":
        exact = base != "bigint" or (values and all(map(_is_exact_integer, values)))
        reason = "" if exact else _ROUNDED
    elif base in INTEGERS and target in TEXT_TYPES and values and not _is_cut(hit):
        reason = "" if all(map(_AN_INTEGER.fullmatch, values)) else _NOT_THE_TEXT
    elif base == "numeric" and target in _FLOATS:
        digits = _DIGITS.fullmatch(hit.evidence["column_type"])
        reason = "" if digits and int(digits[1]) <= _EXACT_DIGITS else _ROUNDED
    elif base == "real" and target not in TEXT_TYPES:
        reason = _NOT_KNOWN if not values else "" if all(map(_is_real, values)) else _NO_REAL
    elif target in {"bpchar", "character"}:
        reason = _SPACES
    elif base in {"citext", "character"} and target in TEXT_TYPES:
        reason = _OTHER_ORDER
    elif not (base in INTEGERS and target == "numeric") and target != "interval":
        reason = _NOT_KNOWN
    return say(reason, **_said(hit))


def _types(hit: Hit) -> tuple[str, str]:
    """Return the type of the column, and the one that it is cast to, without their lengths."""
    return base_type(hit.evidence["column_type"]), base_type(hit.evidence["cast_type"])


def _said(hit: Hit) -> dict[str, object]:
    facts = hit.evidence
    return {**facts, "type": facts["column_type"], "expression": hit.suspicion.shown}


def _is_exact_integer(value: str) -> bool:
    """Whether no other integer becomes the same double precision."""
    try:
        return abs(Decimal(value)) < _EXACT_INTEGERS
    except InvalidOperation:
        return False


def _is_real(value: str) -> bool:
    """Whether a number is one that a real can hold."""
    try:
        number = float(value)
        return bool(struct.unpack("f", struct.pack("f", number))[0] == number)
    except (ValueError, OverflowError):
        return False


def _verdict(case: Case, hit: Hit, difference: str) -> Verdict:
    """Return what the plan of the predicate alone, in the column's own type, proves.

    `difference` tells why it may find other rows; then it is no proof of anything.
    """
    facts = _said(hit)
    if difference:
        return Verdict(VerdictStatus.UNTESTED, difference)
    if facts["served_by"]:
        chosen = _with_value(case, hit)
        if chosen is not None and chosen.status is not VerdictStatus.VERIFIED:
            return chosen
        proof = (say(_WAS_COMPUTED, **facts),)
        return Verdict(VerdictStatus.VERIFIED, say(_USED, **facts), proof=proof)
    return not_shown(hit.evidence["column"], hit.evidence["indexes_on_column"])


def _with_value(case: Case, hit: Hit) -> Verdict | None:
    """Return what the planner does for the value as one of the column's type.

    None if the value is not known, or not one of that type.
    """
    suspicion = hit.suspicion
    column = suspicion.relation.column(suspicion.operand.column_names[0])
    if column is None or any(test.other.columns for test in suspicion.comparisons):
        return None
    tests = []
    for test in suspicion.comparisons:
        several = test.operator == "= ANY"
        value = f"({test.other.text})::{column.type}{'[]' if several else ''}"
        compared = f"ANY ({value})" if several else value
        tests.append(f"{column.quoted_name} {test.operator.removesuffix(' ANY')} {compared}")
    return verdict_alone(case, hit, column, " AND ".join(dict.fromkeys(tests)))

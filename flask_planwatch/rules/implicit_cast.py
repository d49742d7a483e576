"""
implicit-cast
=============

What it finds
-------------

A comparison that makes PostgreSQL cast the *column*, because what it is compared with is of another
type: a ``Decimal`` or a ``float`` against an integer column, a ``float`` against a ``numeric`` one
(psycopg 3 sends it as ``double precision``), a ``str`` that psycopg 3 sends as ``varchar`` against
a ``citext`` column, a ``timedelta`` against a ``time``, or a join of a ``bigint`` with a
``numeric``. It also finds a number that the statement itself casts to text, as in
``cast(User.points, String) == "5"``.

Why it hurts
------------

An index on the column holds its values in its own type, so it cannot serve, not even the primary
key: the plan reads the table, or all rows that another condition left over, and casts the column in
each of them. Nothing in the Python code shows it: the same line may be fast with one driver, or
with ``Decimal("5")``, and slow with another, or with ``Decimal("5.5")``.

How to fix it
-------------

Pass a value of the column's own type; PlanWatch says which Python type that is, and what to do with
a fraction. In a join, give the two columns one type. No index is advised: once the types agree, the
one on the column serves, and PlanWatch lets the planner confirm that. If there is none yet,
``missing-index`` then reports it.

The advice is ``verified`` only if the comparison finds the same rows as before. A number that
equals a text in its own type may not equal it as text, and ``citext`` ignores case: there the new
comparison stands beside the old one. A ``numeric`` column of more than 15 digits may hold several
numbers that equal one ``float``: there the advice is ``untested``, and says why.

When it stays silent
--------------------

- PostgreSQL compares the two types as they are: ``timestamp``, ``timestamptz`` and ``date`` with
  one another, ``integer`` with ``bigint``, ``real`` with ``double precision``.
- The cast only relabels the type, as ``varchar`` to ``text`` and ``cidr`` to ``inet`` do, or what
  is cast is the value and not the column.
- The statement itself casts the column, other than a number to text for ``=`` or ``IN``, or the
  column is part of a larger expression: that is ``functional-predicate``.
- An index on the cast exists.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``, unless ``PLANWATCH_GROWTH`` asks for it
  as ``info``.
- A large part of the rows passes or is needed by the join, the column has only a few different
  values, another condition leaves only a few rows, or a LIMIT was reached early.
- The comparison is one that no btree index answers (``<>``, ``LIKE``), or stands under OR.
- It compares with a sub-query that runs again for each row: no index can know its result.
- The table is one of PostgreSQL's own, or a foreign one.
"""

from __future__ import annotations

from decimal import Decimal

from sqlglot.tokens import TokenType

from ..plan.comparison import Comparison
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.index_use import cast_in_statement, entered_index, names_in
from ..plan.predicate import BTREE_OPERATORS, Operand, tokenize
from ..plan.schema import INTEGER_BITS, INTEGERS, TEXT_TYPES, Column, Schema, base_type
from ..plan.scrub import LITERALS
from ..plan.tree import Plan
from ..plan.wording import Template, Words
from . import worth

NAME = "implicit-cast"

WORDS = Words(
    what=worth.STEP,
    why="{column} ({column_type}) is cast to {cast_type}",
    problem="the statement {reads}, and casts {column}, which is {column_type}, to {cast_type} for "
    "each of them, {because}: {indexes}.",
)

_USELESS = Template("{indexes_on_column:and} on {column} cannot serve the cast")
_NO_INDEX = Template("there is no index on {column} either")

#: Why the column is cast.
_OTHER_COLUMN = Template(
    "because it is compared with {other_table}.{other_column}, which is {other_type}"
)
_TOO_LARGE = Template("because it is compared with an int that is too large for it")
_TYPES = Template("because it is compared with {value_types:or_an}")
_VALUE = Template("because it is compared with a value of that type")

_FOREIGN = "the statement, or a view, casts the column itself"

NUMBERS = INTEGERS | {"numeric", "real", "double precision"}

#: All types of texts, those of a fixed length included.
TEXTS = TEXT_TYPES | {"character", "bpchar"}

#: How the names of the Python classes begin whose values the drivers send as a type: as psycopg2
#: does, or else as psycopg 3 does. NumPy's begin alike.
_SENT_AS: dict[str, tuple[tuple[str, ...], ...]] = {
    "numeric": (("Decimal", "float"),),
    "double precision": (("float",), ("Decimal",)),
    "real": (("float",), ("Decimal",)),
    "interval": (("timedelta",),),
    "time with time zone": (("time",),),
    **dict.fromkeys(TEXTS, (("str",),)),
}


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each column that is cast in a comparison and tested row by row."""
    return worth.suspicions(NAME, plan, schema, _cast_column, Need.OWN_TYPE)


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if the other side forces the cast and the bare column would be worth it."""
    cast = _cast(suspicion.comparison)
    assert cast is not None
    column, target = cast
    if _is_foreign(suspicion, column, target, evidence.statement):
        return Miss(suspicion, _FOREIGN, foreign=True)
    # The predicate is planned alone, in the column's own type.
    served_by = entered_index(evidence.own_type, evidence.schema) if evidence.own_type else ""
    if (miss := worth.needless(suspicion, evidence, has_index=bool(served_by))) is not None:
        return miss
    name = column.quoted_name
    useless = [index.name for index in worth.indexes_on(suspicion.relation, {column.name})]
    value_types = _value_types(suspicion.other, column, target, evidence.parameter_types)
    other_column = _other_column(suspicion.other, evidence)
    found = {
        "column": name,
        "column_type": column.type,
        "cast_type": target,
        "value_types": value_types,
        "other_column": other_column,
        "indexes_on_column": useless,
        "served_by": served_by,
    }
    said = {
        "because": _because(other_column, value_types, number=not _number_as_text(*cast)),
        "indexes": _USELESS if useless else _NO_INDEX,
        **{f"other_{key}": text for key, text in (other_column or {}).items()},
    }
    return worth.hit(suspicion, evidence, WORDS, found, said, fix="own-type")


def _cast_column(comparison: Comparison) -> str:
    """Return the column with its cast if it is one of this rule, else nothing."""
    cast = _cast(comparison)
    # A number's text has an order of its own, so a range of texts is no range of numbers.
    equal_only = cast is not None and _number_as_text(*cast)
    operators = {"=", "= ANY"} if equal_only else BTREE_OPERATORS
    tested = cast is not None and comparison.operator in operators
    worth_it = tested and not comparison.depends_on_row
    return comparison.operand.without_alias() if worth_it else ""


def _cast(comparison: Comparison) -> tuple[Column, str] | None:
    """Return the column, and the type that it is cast to if that is more than another label."""
    casts = comparison.operand.casts
    column = comparison.relation.column(casts[0]) if casts else None
    if casts is None or column is None or comparison.column is not None:
        return None
    return column, casts[1][-1]


def _number_as_text(column: Column, target: str) -> bool:
    return column.base_type in NUMBERS and base_type(target) in TEXTS


def _is_foreign(suspicion: Suspicion, column: Column, target: str, statement: str) -> bool:
    """Whether the cast is the statement's own; but a number as text is this rule's matter."""
    _, types = suspicion.operand.casts or ("", ())
    written = cast_in_statement(column.name, types, statement)
    if _number_as_text(column, target):
        return not written
    # What the statement does not name, it reads through a view, which may cast it.
    return written or not names_in(statement, (column.name, suspicion.relation.name))


def _value_types(
    other: Operand, column: Column, target: str, parameter_types: frozenset[str]
) -> list[str]:
    """Return the Python classes among the parameters that the compared value may be of."""
    if other.columns or not _is_constant(other.text):
        return []
    for beginnings in _SENT_AS.get(base_type(target), ()):
        if fitting := sorted(name for name in parameter_types if name.startswith(beginnings)):
            return fitting
    bits = INTEGER_BITS.get(column.base_type)
    digits = other.text.strip("'").partition("'")[0].lstrip("-")
    # Python reads no int of thousands of digits.
    too_large = bits and digits.isdecimal() and Decimal(digits) >= 2 ** (bits - 1)
    return ["int"] if too_large and "int" in parameter_types else []


def _is_constant(text: str) -> bool:
    """Whether the text is one literal, which may have a type."""
    tokens = tokenize(text.lstrip("-")).tokens
    kinds = [token.token_type for token in tokens]
    return bool(kinds) and kinds[0] in LITERALS and kinds[1:2] in ([], [TokenType.DCOLON])


def _other_column(other: Operand, evidence: Evidence) -> dict[str, str] | None:
    """Return the column that the cast one is compared with, None if it is not a column's."""
    name = other.column or (other.casts[0] if other.casts else None)
    found = worth.other_column(other, evidence, name)
    if found is None:
        return None
    table = evidence.schema.root(found[0]).display
    return {"table": table, "column": found[1].quoted_name, "type": found[1].type}


def _because(other: dict[str, str] | None, value_types: list[str], *, number: bool) -> Template:
    """Return why the column is cast, as the end of a sentence."""
    if other is not None:
        return _OTHER_COLUMN
    if value_types == ["int"] and number:
        return _TOO_LARGE
    return _TYPES if value_types else _VALUE

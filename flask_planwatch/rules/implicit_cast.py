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
each of them. Nothing in the Python code shows it, and the same line may behave with one driver, or
with ``Decimal("5")``, and not with another, or with ``Decimal("5.5")``.

How to fix it
-------------

Pass a value of the column's own type; PlanWatch says which Python type that is, and what to do with
a fraction. In a join, give the two columns one type. No index is advised: once the types agree, the
one on the column serves, and PlanWatch lets the planner confirm that. If there is none yet,
``missing-index`` speaks of it then.

When it stays silent
--------------------

- PostgreSQL compares the two types as they are: ``timestamp``, ``timestamptz`` and ``date`` with
  one another, ``integer`` with ``bigint``, ``real`` with ``double precision``.
- The cast only relabels the type, as ``varchar`` to ``text`` and ``cidr`` to ``inet`` do, or what
  is cast is the value and not the column.
- The statement itself casts the column, other than a number to text for ``=`` or ``IN``, or the
  column is part of a larger expression: that is ``functional-predicate``.
- An index on the cast exists.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``, unless ``PLANWATCH_GROWTH`` asks to hear
  of it as ``info``.
- A large part of the rows passes or is needed by the join, the column has only a few different
  values, another condition leaves only a few rows, or a LIMIT was reached early.
- The comparison is one that no btree index answers (``<>``, ``LIKE``), or stands under OR.
- The table is one of PostgreSQL's own, or a foreign one.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from sqlglot.tokens import TokenType

from ..plan.comparison import Comparison, comparisons
from ..plan.evidence import Evidence, Hit, Miss, Need, Remedy, Suspicion
from ..plan.predicate import BTREE_OPERATORS, Operand, tokenize
from ..plan.schema import Column, Schema
from ..plan.scrub import LITERALS
from ..plan.tree import INDEX_CONDITIONS, Plan
from ..plan.usage import cast_in_statement, names_in
from . import worth

NAME = "implicit-cast"

#: The bits of each integer type.
INTEGERS = {"smallint": 16, "integer": 32, "bigint": 64}

NUMBERS = frozenset({*INTEGERS, "numeric", "real", "double precision"})

TEXTS = frozenset({"text", "character varying", "character", "bpchar"})

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
    return worth.merged(_suspicions(plan, schema))


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if the other side forces the cast and the bare column would be worth it."""
    column, target = _cast(suspicion.comparison) or (Column("", ""), "")
    if _is_foreign(suspicion, evidence.statement):
        return Miss(suspicion, "the statement, or a view, casts the column itself", foreign=True)
    rows = worth.rows_read(suspicion, evidence.schema)
    served_by = _index_on_bare_column(evidence.own_type)
    reason = worth.needless(suspicion, evidence, rows, has_index=bool(served_by))
    if reason is not None:
        return Miss(suspicion, *reason)
    name = column.quoted_name
    useless = [index.name for index in worth.indexes_on(suspicion.relation, [column.name])]
    value_types = _value_types(suspicion.other, column, target, evidence.parameter_types)
    other_column = _other_column(suspicion.other, evidence)
    facts = worth.facts(suspicion, evidence, rows) | {
        "column": name,
        "column_type": column.type,
        "cast_type": target,
        "value_types": value_types,
        "other_column": other_column,
        "indexes_on_column": useless,
        "served_by": served_by,
    }
    why = f"there is no index on {name} either"
    if useless:
        why = f"{' and '.join(useless)} on {name} cannot serve the cast"
    problem = (
        f"{worth.reading(suspicion, evidence.schema, rows)}, and casts {name}, which is "
        f"{column.type}, to {target} for each of them, "
        f"{_because(suspicion, other_column, value_types)}: {why}."
    )
    small = rows < evidence.min_rows
    return Hit(
        suspicion,
        problem,
        rows,
        facts,
        small=small,
        remedy=Remedy.OWN_TYPE,
        what=worth.step(suspicion),
        why=f"{name} ({column.type}) is cast to {target}",
    )


def _suspicions(plan: Plan, schema: Schema) -> Iterator[Suspicion]:
    for comparison in comparisons(plan, schema):
        cast = _cast(comparison)
        tested = comparison.costly and comparison.operator in BTREE_OPERATORS
        if not tested or cast is None:
            continue
        # A number's text has an order of its own, so a range of texts is no range of numbers.
        if _number_as_text(*cast) and comparison.operator not in {"=", "= ANY"}:
            continue
        subject = comparison.operand.without_alias()
        yield Suspicion(
            rule=NAME,
            relation=schema.root(comparison.relation),
            subject=subject,
            keys=(subject,),
            scans=(comparison.scan,),
            comparisons=(comparison,),
            needs=frozenset({Need.SEQSCAN_OFF, Need.PREDICATE_ALONE, Need.OWN_TYPE}),
            other_rows=worth.other_rows(comparison),
        )


def _cast(comparison: Comparison) -> tuple[Column, str] | None:
    """Return the column, and the type that it is cast to if that is more than another label."""
    casts = comparison.operand.casts
    column = comparison.relation.column(casts[0]) if casts else None
    if casts is None or column is None or comparison.column is not None:
        return None
    return column, casts[1][-1]


def _number_as_text(column: Column, target: str) -> bool:
    return column.base_type in NUMBERS and target.partition("(")[0] in TEXTS


def _is_foreign(suspicion: Suspicion, statement: str) -> bool:
    """Whether the cast is the statement's own; but a number as text is this rule's matter."""
    cast, casts = _cast(suspicion.comparison), suspicion.operand.casts
    if cast is None or casts is None:
        return True
    written = cast_in_statement(cast[0].name, casts[1], statement)
    if _number_as_text(*cast):
        return not written
    # What the statement does not name, it reads through a view, which may cast it.
    named = names_in(statement, (cast[0].name, suspicion.relation.name))
    return written or not named


def _index_on_bare_column(plan: Plan | None) -> str:
    """Return the index that answers the predicate, alone and in the column's own type."""
    for node in plan.nodes if plan else ():
        if node.index and any(kind in INDEX_CONDITIONS for kind, _ in node.conditions):
            return node.index
    return ""


def _value_types(
    other: Operand, column: Column, target: str, parameter_types: frozenset[str]
) -> list[str]:
    """Return the Python classes among the parameters that the compared value may be of."""
    if other.columns or not _is_constant(other.text):
        return []
    for beginnings in _SENT_AS.get(target.partition("(")[0], ()):
        if fitting := sorted(name for name in parameter_types if name.startswith(beginnings)):
            return fitting
    bits = INTEGERS.get(column.base_type)
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
    aliases = other.aliases
    scan = next((scan for scan in evidence.plan.scans if scan.alias in aliases), None)
    relation = evidence.schema.get(scan.qualified_relation) if scan else None
    column = relation.column(name) if relation and name else None
    if relation is None or column is None:
        return None
    root = evidence.schema.root(relation)
    return {"table": root.display, "column": column.quoted_name, "type": column.type}


def _because(suspicion: Suspicion, other: dict[str, str] | None, value_types: list[str]) -> str:
    """Return why the column is cast, as the end of a sentence."""
    if other is not None:
        return f"because {other['table']}.{other['column']}, its other side, is {other['type']}"
    cast = _cast(suspicion.comparison)
    if value_types == ["int"] and not (cast and _number_as_text(*cast)):
        return "because it is compared with an int that is too large for it"
    if value_types:
        return f"because it is compared with a {' or a '.join(value_types)}"
    return "because it is compared with a value of that type"

"""Asks the server whether an expression can be indexed, and for its shortest spelling.

The volatility of each function, operator and cast is looked up for the types of its arguments:
`date_trunc` is IMMUTABLE for a `timestamp` and STABLE for a `timestamptz`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from sqlglot import expressions as sql

from ..failure import ServerError
from ..plan.dialect import PrintedSQL, Structure, write
from ..plan.predicate import bare, parse
from ..plan.schema import ExpressionFacts, Relation, Volatility
from ..plan.scrub import mask
from ..plan.spelling import shorter_spelling
from ..plan.wording import say
from .explain import qualified
from .session import Session
from .transaction import NO_SERVER, Transaction, may_be_refused

#: Pseudo-types that stand for any argument: "any", and the polymorphic ones of
#: https://www.postgresql.org/docs/current/extend-type-system.html
_POLYMORPHIC = "('any', 'anyelement', 'anyarray', 'anynonarray', 'anyenum', 'anyrange', \
'anymultirange', 'anycompatible', 'anycompatiblearray', 'anycompatiblenonarray', \
'anycompatiblerange', 'anycompatiblemultirange')"

#: What is asked of a function: its volatility, or whether it is leakproof, in the same letters.
_VOLATILITY = "p.provolatile::text"
_LEAKPROOF = "CASE WHEN p.proleakproof THEN 'i' ELSE 'v' END"

_FUNCTION = f"""
SELECT {{trait}}, (
    SELECT count(*) FROM unnest(%s::oid[]) WITH ORDINALITY AS given (type, place)
    JOIN unnest(p.proargtypes::oid[]) WITH ORDINALITY AS wanted (type, place) USING (place, type))
FROM pg_proc p
WHERE p.proname = %s AND (%s = '' AND pg_function_is_visible(p.oid)
                          OR p.pronamespace::regnamespace::text = %s)
  AND p.pronargs - p.pronargdefaults <= %s AND (p.pronargs >= %s OR p.provariadic <> 0)
  AND NOT EXISTS (
    SELECT 1 FROM unnest(%s::oid[]) WITH ORDINALITY AS given (type, place)
    LEFT JOIN unnest(p.proargtypes::oid[]) WITH ORDINALITY AS wanted (type, place)
      ON wanted.place = least(given.place, p.pronargs)
    LEFT JOIN pg_type t ON t.oid = wanted.type
    WHERE wanted.type <> given.type AND t.typname NOT IN {_POLYMORPHIC}
      AND NOT (p.provariadic <> 0 AND given.place >= p.pronargs
               AND p.provariadic IN (given.type, '"any"'::regtype)))
"""

_OPERATOR = f"""
SELECT {{trait}}, (o.oprleft = %s)::int + (o.oprright = %s)::int
FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode
JOIN pg_type r ON r.oid = o.oprright LEFT JOIN pg_type l ON l.oid = o.oprleft
WHERE o.oprname = %s AND pg_operator_is_visible(o.oid)
  AND (o.oprleft = %s OR l.typname IN {_POLYMORPHIC})
  AND (o.oprright = %s OR r.typname IN {_POLYMORPHIC})
"""

_CAST = """
SELECT CASE WHEN c.castmethod = 'b' THEN 'i' ELSE {trait} END, 1
FROM pg_cast c LEFT JOIN pg_proc p ON p.oid = c.castfunc
WHERE c.castsource = %s AND c.casttarget = %s AND c.castmethod <> 'i'
"""

_INPUT_OUTPUT = """
SELECT max({trait}), 1 -- 'i' < 's' < 'v'
FROM pg_type t JOIN pg_proc p
  ON p.oid = CASE WHEN t.oid = %s THEN t.typoutput ELSE t.typinput END
WHERE t.oid IN (%s, %s)
"""

_CLASSES = {"i": Volatility.IMMUTABLE, "s": Volatility.STABLE, "v": Volatility.VOLATILE}

#: Nodes that compute nothing themselves, or whose function is always IMMUTABLE.
_HARMLESS = (
    sql.Column, sql.Identifier, sql.Literal, sql.Paren, sql.Boolean, sql.Null, sql.DataType,
    sql.DataTypeParam, sql.Case, sql.If, sql.And, sql.Or, sql.Not, sql.Is, sql.Dot, sql.Var,
    sql.Bracket, sql.Interval, sql.Array, sql.IntervalSpan, sql.Collate,
)  # fmt: skip

#: Functions of the grammar, which have no row in pg_proc.
_SPECIAL = {"COALESCE", "GREATEST", "LEAST", "NULLIF"}

#: Keywords whose value depends on the transaction or the session.
_CURRENT = (
    sql.CurrentDate, sql.CurrentTime, sql.CurrentTimestamp, sql.CurrentUser, sql.CurrentRole,
    sql.CurrentSchema, sql.CurrentCatalog, sql.SessionUser, sql.Localtime, sql.Localtimestamp,
)  # fmt: skip

#: Parts of an expression, and why it cannot be indexed.
_CAST_TO = "the cast to {type}"
_THE_OPERATOR = "the operator {symbol}"
_CULPRIT = "{part} is {volatility}"
_NOT_READ = "the expression could not be read"
_NO_ANSWER = "the server did not answer: {error}"
_NOT_LOOKED_UP = "{part} cannot be looked up in the catalog"
_NO_SINGLE_MATCH = "{part} has no single match in the catalog"


class _Unresolved(Exception):
    """The catalog has no row for a part of the expression, or several; the message names it."""


def describe(session: Session, relation: Relation, expression: str) -> ExpressionFacts:
    """Return what the server says of an expression over one relation's columns.

    `expression` is as the server printed it, without alias. Raises ServerError only if the
    connection fails.
    """
    volatility, reason = _volatility(session, relation, expression)
    return ExpressionFacts(_spelling(session, relation, expression), volatility, reason)


def leaking_part(
    session: Session, relation: Relation, operand: str, operator: str, other: str
) -> str:
    """Return which part of a comparison is not LEAKPROOF, "" if none is or that is not known.

    Below a policy of the table, no index answers such a comparison. Raises ServerError only if the
    connection fails.
    """
    left, right = parse(operand), parse(other)
    symbol, _, several = operator.partition(" ")
    if left is None or right is None or symbol == "ANY":
        return ""
    with suppress(_Unresolved), may_be_refused(), session.transaction() as transaction:
        catalog = _Catalog(transaction, relation, _LEAKPROOF)
        for part, trait in catalog.parts(left):
            if trait is not Volatility.IMMUTABLE:
                return part
        if symbol != "IS" and catalog.leaks(symbol, left, left if several else right):
            return say(_THE_OPERATOR, symbol=symbol)
    return ""


def _spelling(session: Session, relation: Relation, expression: str) -> str:
    """Return the shortest spelling that the server prints back as the same expression."""
    shorter = shorter_spelling(expression, relation)
    if shorter == expression:
        return expression
    table = qualified(relation.schema, relation.name)
    queries = [f"SELECT ({text}) FROM {table}" for text in (expression, shorter)]
    with session.transaction() as transaction, transaction.attempt("planwatch_spelling"):
        before, after = (transaction.output(query) for query in queries)
        if before == after:
            return shorter
    return expression


def _volatility(session: Session, relation: Relation, expression: str) -> tuple[Volatility, str]:
    structure = parse(expression)
    if structure is None:
        return Volatility.UNKNOWN, _NOT_READ
    ranks = list(_CLASSES.values())
    try:
        with session.transaction() as transaction:
            parts = list(_Catalog(transaction, relation).parts(structure))
    except _Unresolved as unresolved:
        return Volatility.UNKNOWN, str(unresolved)
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        return Volatility.UNKNOWN, say(_NO_ANSWER, error=error)
    harmless = ("", Volatility.IMMUTABLE)
    culprit, worst = max([harmless, *parts], key=lambda part: ranks.index(part[1]))
    return worst, say(_CULPRIT, part=culprit, volatility=worst.upper()) if culprit else ""


class _Catalog:
    """Looks up the parts of one expression in one transaction: the `trait` of each."""

    def __init__(
        self, transaction: Transaction, relation: Relation, trait: str = _VOLATILITY
    ) -> None:
        self._transaction = transaction
        self._trait = trait
        self._table = qualified(relation.schema, relation.name)

    def parts(self, structure: Structure) -> Iterator[tuple[str, Volatility]]:
        """Yield each function, operator and cast with its volatility; raises _Unresolved."""
        for node in structure.walk():
            if isinstance(node, _CURRENT):
                yield write(node), Volatility.STABLE
            elif isinstance(node, sql.Cast):
                yield _cast_to(node), self._cast(node)
            elif isinstance(node, sql.Anonymous):
                yield from self._call(node)
            elif isinstance(node, sql.AtTimeZone):
                # The grammar makes `x AT TIME ZONE z` a call of timezone(z, x).
                yield "AT TIME ZONE", self._function("timezone", [node.args["zone"], node.this])
            elif isinstance(node, sql.Extract):
                field = sql.Literal.string(node.this.name)
                text = sql.cast(field, "text", dialect=PrintedSQL)
                yield "EXTRACT", self._function("extract", [text, node.expression])
            elif isinstance(node, sql.Substring | sql.Trim | sql.StrPosition | sql.Overlay):
                # For text and for bytea, they are IMMUTABLE, and not leakproof.
                immutable = self._trait == _VOLATILITY
                name = type(node).__name__.upper()
                yield name, Volatility.IMMUTABLE if immutable else Volatility.VOLATILE
            elif isinstance(node, sql.Neg | sql.BitwiseNot):
                symbol = "-" if isinstance(node, sql.Neg) else "~"
                found = self._operator(symbol, None, node.this)
                yield say(_THE_OPERATOR, symbol=symbol), found
            elif isinstance(node, sql.Binary) and not isinstance(node, _HARMLESS):
                symbol = _symbol(node)
                found = self._operator(symbol, node.left, node.right)
                yield say(_THE_OPERATOR, symbol=symbol), found
            elif not isinstance(node, _HARMLESS):
                raise _Unresolved(say(_NOT_LOOKED_UP, part=type(node).__name__))

    def _call(self, node: sql.Anonymous) -> Iterator[tuple[str, Volatility]]:
        name = node.name
        if name.upper() in _SPECIAL:
            return
        schema = ""
        if isinstance(node.parent, sql.Dot) and node.arg_key == "expression":
            schema = node.parent.this.name
        yield name, self._function(name, node.expressions, schema)

    def _function(self, name: str, arguments: list[Structure], schema: str = "") -> Volatility:
        types = self._types(arguments)
        count = len(arguments)
        rows = self._fetch(_FUNCTION, (types, name, schema, schema, count, count, types))
        return self._only(rows, name)

    def _operator(self, symbol: str, left: Structure | None, right: Structure) -> Volatility:
        types = self._types([right] if left is None else [left, right])
        given = (0, *types) if left is None else types
        return self._only(self._fetch(_OPERATOR, (*given, symbol, *given)), symbol)

    def _cast(self, node: sql.Cast) -> Volatility:
        if isinstance(node.this, sql.Literal):
            # The planner has already folded the cast of a constant.
            return Volatility.IMMUTABLE
        source, target = self._types([node.this, node])
        if source == target:
            return Volatility.IMMUTABLE
        rows = self._fetch(_CAST, (source, target))
        if not rows:
            rows = self._fetch(_INPUT_OUTPUT, (source, source, target))
        return self._only(rows, _cast_to(node))

    def leaks(self, symbol: str, left: Structure, right: Structure) -> bool:
        """Whether an operator tells something of its arguments; raises _Unresolved."""
        return self._operator(symbol, left, right) is not Volatility.IMMUTABLE

    def _fetch(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._transaction.fetch(query.replace("{trait}", self._trait), parameters)

    def _only(self, rows: list[tuple[Any, ...]], part: str) -> Volatility:
        """Return the volatility of the best match: an exact type before a polymorphic one."""
        closest = max((closeness for _, closeness in rows), default=0)
        classes = {volatility for volatility, closeness in rows if closeness == closest}
        if len(classes) != 1 or None in classes:
            raise _Unresolved(say(_NO_SINGLE_MATCH, part=mask(part)))
        return _CLASSES[classes.pop()]

    def _types(self, expressions: list[Structure]) -> list[int]:
        """Return the type oids of expressions. With LIMIT 0, none of them is evaluated."""
        if not expressions:
            return []
        items = ", ".join(f"({write(expression)})" for expression in expressions)
        return self._transaction.types(f"SELECT {items} FROM {self._table} LIMIT 0")


def _cast_to(node: sql.Cast) -> str:
    return say(_CAST_TO, type=write(node.to))


def _symbol(node: sql.Binary) -> str:
    """Return the operator of a binary node: what stands between its operands."""
    left, right, whole = write(node.left), write(node.right), write(node)
    between = whole.removeprefix(left).removesuffix(right)
    return bare(between)

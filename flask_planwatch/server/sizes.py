"""Asks the server for what the size of an index depends on: statistics of what its entries hold."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from ..capture.literals import constant
from ..indexes.btree import PAGE, Size, Stored, btree_size
from ..indexes.candidate import Candidate, column_of, mentions
from ..plan.schema import Column, Relation
from .explain import Query, qualified
from .transaction import Transaction

#: The width of a value of which nothing is known, in bytes.
USUAL_WIDTH = 16

#: Where only the average width of values is known, their lengths are taken to differ by this much.
#: It is rounded down, and what an entry takes is rounded up to 8 bytes.
_SPREAD = range(-3, 5)

#: So many partitions are asked about, the largest ones: each takes a millisecond for each key. The
#: others are taken to need as many bytes for each row.
_MAX_LEAVES = 20

_SAVEPOINT = "planwatch_sizes"

#: A type: its length or -1 if that varies, its alignment, whether equal values can be merged,
#: whether the expression is NULL if its columns are, and the name of the type. For merging, the
#: operator class needs a function
#: (https://www.postgresql.org/docs/current/btree.html#BTREE-SUPPORT-FUNCS).
_TYPE = """
SELECT greatest(t.typlen, -1), CASE WHEN t.typlen < 0 THEN 1 ELSE
        CASE t.typalign WHEN 'd' THEN 8 WHEN 'i' THEN 4 WHEN 's' THEN 2 ELSE 1 END END,
    EXISTS (
        SELECT FROM pg_opclass c JOIN pg_am a ON a.oid = c.opcmethod AND a.amname = 'btree'
        JOIN pg_amproc p ON p.amprocfamily = c.opcfamily AND p.amprocnum = 4
                        AND p.amproclefttype = c.opcintype
        WHERE c.opcdefault AND c.opcintype = CASE
            WHEN t.typname = 'varchar' THEN 'text'::regtype
            WHEN t.typtype = 'e' THEN 'anyenum'::regtype ELSE t.oid END),
    given.empty, t.typname::text
FROM (SELECT pg_typeof({expression}) AS type, num_nulls({expression}) > 0 AS empty
      FROM (SELECT {nulls}) nulls) given
JOIN pg_type t ON t.oid = given.type
"""

_COLUMN = """
SELECT null_frac, n_distinct, avg_width,
    coalesce((SELECT sum(frequency) FROM unnest(most_common_freqs) frequency), 0)::float8,
    coalesce(cardinality(most_common_freqs), 0)
FROM pg_stats {where}
"""

#: The sizes of an expression's values, for the values of a column that the statistics have: the
#: frequent ones, and some that stand for equal shares of the others. As a part of a row, a value of
#: variable length is as long as in an index; the row's own header has 24 bytes. Those of an array
#: are read as texts first: they would be taken for more dimensions.
_VALUES = """
WITH known AS MATERIALIZED ( -- else each value would be read anew for each row
    SELECT most_common_vals::text::text[] AS common, most_common_freqs AS frequencies,
        histogram_bounds::text::text[] AS bounds, null_frac
    FROM pg_stats {where}
), other AS MATERIALIZED (
    SELECT greatest(1 - null_frac - coalesce(
        (SELECT sum(frequency) FROM unnest(frequencies) frequency), 0), 0) AS share FROM known
)
SELECT pg_column_size(ROW({expression})) - 24, sum(planwatch_share)::float8,
    count(DISTINCT {expression}), count(*), array_agg(DISTINCT {number})
FROM (
    SELECT unnest(common)::{type} AS {column}, unnest(frequencies) AS planwatch_share FROM known
    UNION ALL
    SELECT unnest(bounds)::{type}, share / cardinality(bounds) FROM known, other
) sample
GROUP BY 1
"""

#: The values of an expression as whole numbers, by the names of types that have steps.
_NUMBERS = {
    "date": "CASE WHEN isfinite({0}) THEN {0} - DATE '2000-01-01' END::bigint",
    "timestamp": "CASE WHEN isfinite({0}) THEN extract(epoch FROM {0}) * 1000000 END::bigint",
    "timestamptz": "CASE WHEN isfinite({0}) THEN extract(epoch FROM {0}) * 1000000 END::bigint",
    "int2": "({0})::bigint",
    "int4": "({0})::bigint",
    "int8": "{0}",
}


class _Type(NamedTuple):
    """A row of _TYPE."""

    length: int
    alignment: int
    mergeable: bool
    strict: bool
    name: str = ""


class _Statistics(NamedTuple):
    """A row of _COLUMN."""

    nulls: float = 0.0
    distinct: float = 0.0
    width: int = 0
    frequent: float = 0.0
    frequent_values: int = 0


class _Value(NamedTuple):
    """A row of _VALUES: a size in bytes, the share of the rows with it, and what is known of them.

    `distinct` of the `sampled` values differ. `numbers` has them where the type has steps.
    """

    size: int
    share: float
    distinct: int
    sampled: int
    numbers: list[int | None]


class Sizes:
    """Estimates the sizes of b-trees that are not built, in one transaction.

    What was asked is remembered as long as it lives: each key takes three queries and 1.2 ms, and
    several indexes have it. For two columns that saves 12 queries, and 5 of 32 ms. Methods raise
    ServerError only if the connection fails.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._stored: dict[tuple[str, str], Stored] = {}
        self._rows: dict[Candidate, float] = {}
        self._sizes: dict[Candidate, Size] = {}

    def of(self, candidate: Candidate) -> Size:
        """Return the size that the index will have once it is built, on all partitions."""
        if candidate not in self._sizes:
            partitioned = candidate.relation.partitioned
            size = self._of_partitions(candidate) if partitioned else self._of_one(candidate)
            self._sizes[candidate] = size
        return self._sizes[candidate]

    def _of_partitions(self, candidate: Candidate) -> Size:
        """Return the sum of the sizes on each partition that holds rows, as each has its own."""
        leaves = candidate.schema.leaves(candidate.relation)
        leaves.sort(key=lambda leaf: leaf.rows, reverse=True)
        asked, others = leaves[:_MAX_LEAVES], leaves[_MAX_LEAVES:]
        sizes = [self.of(replace(candidate, relation=leaf)) for leaf in asked]
        bytes_of_all = sum(size.bytes for size in sizes)
        if others:
            for_each_row = bytes_of_all / max(sum(leaf.rows for leaf in asked), 1)
            bytes_of_all += sum(max(int(leaf.rows * for_each_row), PAGE) for leaf in others)
        return Size(bytes_of_all, max((size.height for size in sizes), default=0))

    def _of_one(self, candidate: Candidate) -> Size:
        """Return the size of an index on a table that holds rows."""
        keys, included = (
            [self._of_rows(candidate, text) for text in texts]
            for texts in (candidate.expressions, candidate.included)
        )
        return btree_size(keys, included, self.rows_of(candidate))

    def rows_of(self, candidate: Candidate) -> float:
        """Return the rows that an index on a table that holds rows will have."""
        if candidate not in self._rows:
            self._rows[candidate] = self._rows_in(candidate)
        return self._rows[candidate]

    def _rows_in(self, candidate: Candidate) -> float:
        """Return the rows of an index as the planner estimates them."""
        relation = candidate.relation
        rows = relation.rows
        if candidate.predicate:
            table = qualified(relation.schema, relation.name)
            sql = f"SELECT 1 FROM ONLY {table} WHERE {candidate.predicate}"
            with self._transaction.attempt(_SAVEPOINT):
                query = Query(sql, None, escaped=False)
                return min(query.explain(self._transaction).root.rows, rows)
        return rows

    def _of_rows(self, candidate: Candidate, text: str) -> Stored:
        """Return what the rows of an index hold of a column or expression."""
        place = (candidate.relation.key, text)
        if place not in self._stored:
            self._stored[place] = self._of_table(candidate, text)
        stored = self._stored[place]
        if stored.nulls < 1 and re.search(
            rf'(?<![\w"]){re.escape(text)}\)* IS NOT NULL', candidate.predicate
        ):
            frequent = min(stored.frequent / (1 - stored.nulls), 1.0)
            return replace(stored, nulls=0.0, frequent=frequent)
        return stored

    def _of_table(self, candidate: Candidate, text: str) -> Stored:
        """Return what all rows of the table hold of a column or expression."""
        relation = candidate.relation
        column = column_of(relation, text)
        columns = [column] if column else _columns_in(relation, text)
        kind = _Type(-1, 1, mergeable=True, strict=True)
        with self._transaction.attempt(_SAVEPOINT):
            kind = self._type(text, columns)
        known = [self._statistics(relation, each) for each in columns]
        values: list[_Value] = []
        if len(columns) == 1:
            with self._transaction.attempt(_SAVEPOINT):
                values = self._values(relation, columns[0], text, kind)
        return _stored(kind, known, values, relation.rows, is_column=column is not None)

    def _type(self, text: str, columns: list[Column]) -> _Type:
        nulls = ", ".join(f"NULL::{each.type} AS {each.quoted_name}" for each in columns)
        sql = _TYPE.format(expression=f"({text})", nulls=nulls or "1")
        (row,) = self._transaction.fetch(sql)
        return _Type(*row)

    def _statistics(self, relation: Relation, column: Column) -> _Statistics:
        rows = self._transaction.fetch(_COLUMN.format(where=_where(relation, column)))
        return _Statistics(*rows[0]) if rows else _Statistics(width=int(column.width))

    def _values(self, relation: Relation, column: Column, text: str, kind: _Type) -> list[_Value]:
        sql = _VALUES.format(
            expression=f"({text})",
            number=_NUMBERS.get(kind.name, "NULL::bigint").format(f"({text})"),
            type=column.type,
            column=column.quoted_name,
            where=_where(relation, column),
        )
        return [_Value(*row) for row in self._transaction.fetch(sql)]


def _columns_in(relation: Relation, text: str) -> list[Column]:
    return [column for column in relation.columns if mentions(text, column.quoted_name)]


def _where(relation: Relation, column: Column) -> str:
    schema, table, name = map(constant, (relation.schema, relation.name, column.name))
    named = f"schemaname = {schema} AND tablename = {table} AND attname = {name}"
    return f"WHERE {named} AND NOT inherited"


def _stored(
    kind: _Type,
    known: list[_Statistics],
    values: list[_Value],
    rows: float,
    *,
    is_column: bool,
) -> Stored:
    """Return what an index holds of an expression, from the statistics of its columns."""
    distinct = 1.0
    for each in known:
        distinct *= -each.distinct * rows if each.distinct < 0 else each.distinct or rows
    nulls = max((each.nulls for each in known), default=0.0)
    frequent, frequent_values = 0.0, 0
    if is_column:
        frequent, frequent_values = known[0].frequent, known[0].frequent_values
    elif not kind.strict:
        # Rows without a value get one, the same for all.
        nulls, frequent, frequent_values = 0.0, nulls, 1
    present = [value for value in values if value.size > 0]
    if not is_column and values:
        nulls += sum(value.share for value in values if value.size == 0)
        distinct = _distinct(present, distinct)
    sizes = {kind.length: 1.0}
    if kind.length < 0:
        whole = sum(value.share for value in present)
        sizes = {value.size: value.share / whole for value in present} if whole else {}
        sizes = sizes or _spread(sum(each.width for each in known) or USUAL_WIDTH)
    return Stored(
        sizes=sizes,
        alignment=kind.alignment,
        nulls=min(nulls, 1.0),
        distinct=max(distinct, 1.0),
        frequent=frequent,
        frequent_values=frequent_values,
        mergeable=kind.mergeable,
    )


def _distinct(values: list[_Value], of_column: float) -> float:
    """Return how many values an expression has, by those of the values that statistics have."""
    different = sum(value.distinct for value in values)
    sampled = sum(value.sampled for value in values)
    numbers = sorted({number for value in values for number in value.numbers if number is not None})
    return min(of_column, _drawn_from(different, sampled), _possible(numbers))


def _drawn_from(different: int, sampled: int) -> float:
    """Return of how many equally frequent values a sample has so many different ones."""
    if different >= sampled:
        return math.inf
    low, high = float(different), float(sampled) ** 2
    while high > low * 1.01:
        middle = math.sqrt(low * high)
        expected = -middle * math.expm1(-sampled / middle)
        low, high = (middle, high) if expected < different else (low, middle)
    return high


def _possible(numbers: list[int]) -> float:
    """Return how many values there can be between the first and the last, in steps as they have."""
    steps = {after - before for before, after in pairwise(numbers)}
    if not steps:
        return math.inf
    # That some values out of many are at equal distances tells nothing of those between.
    step = math.gcd(*steps) if len(steps) > 1 else 1
    return (numbers[-1] - numbers[0]) / step + 1


def _spread(width: int) -> dict[int, float]:
    """Return the sizes of values of this average width, with their shares."""
    sizes = [max(width + more, 1) for more in _SPREAD]
    return {size: sizes.count(size) / len(sizes) for size in sizes}

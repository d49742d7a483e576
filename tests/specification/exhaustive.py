"""What the best indexes for a statement are, found by building all that could be.

This knows nothing of PlanWatch: it reads the SQLAlchemy statement, builds each index that its
columns and expressions allow, and lets the planner choose. Everything happens in transactions that
are rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import operators, visitors

from ..databases import analyse_expressions

#: Columns of the widest index that is tried.
MAX_KEYS = 3

#: A statement that allows more indexes than this takes too long, and its case is too hard to read.
MAX_INDEXES = 64

#: Types that no btree index is made on: other kinds of index are listed in the case.
UNSORTED = (
    postgresql.JSONB,
    postgresql.ARRAY,
    postgresql.TSVECTOR,
    postgresql.ranges.AbstractRange,
)

_DIRECTIONS = {
    operators.desc_op: " DESC",
    operators.asc_op: "",
    operators.nulls_first_op: " NULLS FIRST",
    operators.nulls_last_op: " NULLS LAST",
}

#: An index as what follows ON in CREATE INDEX: the table, and the rest.
Definition = tuple[str, str]

#: What a case adds for some of the tables.
PerTable = Mapping[Any, Sequence[str]]


@dataclass(frozen=True)
class Measured:
    """The planner's answer: the cost of the whole statement, and the indexes that it uses."""

    cost: float
    indexes: tuple[str, ...]
    plan: dict[str, Any] = field(repr=False, hash=False)


class Laboratory:
    """A database in which indexes are built, tried and taken away again."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)
        sa.event.listen(self._engine, "before_cursor_execute", _hold_back)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that is rolled back at its end."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '512MB'")
            yield Transaction(connection)
            connection.rollback()

    def measure(
        self, statement: sa.Executable, ddl: Sequence[str] = (), setup: Sequence[str] = ()
    ) -> Measured:
        """Plan a statement with some indexes in place, given as statements that create them."""
        with self.transaction() as transaction:
            transaction.run(*setup)
            transaction.build(ddl)
            return transaction.measure(statement)

    def search(
        self,
        statement: sa.Executable,
        keys: PerTable,
        also: PerTable,
        setup: Sequence[str] = (),
    ) -> Measured:
        """Plan a statement with all indexes in place that could help it."""
        ddl = [create_index(*index) for index in candidates(statement, keys, also)]
        return self.measure(statement, ddl, setup)

    def canonical(self, definitions: Sequence[Definition]) -> list[Definition]:
        """Return indexes in the server's own words, so that different spellings are equal."""
        with self.transaction() as transaction:
            return [transaction.canonical(*definition) for definition in definitions]


class Transaction:
    """A connection of the laboratory within its transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def run(self, *statements: str) -> None:
        """Run statements one by one."""
        for statement in statements:
            self._connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def rows(self, query: str) -> list[Any]:
        """Return the rows of a query."""
        options = {"no_parameters": True}
        return list(self._connection.exec_driver_sql(query, execution_options=options).all())

    def build(self, ddl: Sequence[str]) -> list[int]:
        """Create indexes, and collect statistics of their expressions; returns their oids."""
        known = "SELECT indexrelid FROM pg_index"
        before = {oid for (oid,) in self.rows(known)}
        self.run(*ddl)
        built = [oid for (oid,) in self.rows(known) if oid not in before]
        for (table,) in self.rows(
            "SELECT DISTINCT indrelid::regclass::text FROM pg_index WHERE indexprs IS NOT NULL "
            f"AND indexrelid = ANY ({_array(built)})"
        ):
            self.run(analyse_expressions(table))
        return built

    def measure(self, statement: sa.Executable) -> Measured:
        """Plan a statement."""
        connection = self._connection
        try:
            connection.execute(statement, execution_options={"hold_back": True})
        except _HeldBack as held:
            text, parameters = held.args
        explain = f"EXPLAIN (FORMAT JSON) {text}"
        plan = connection.exec_driver_sql(explain, parameters).scalar()[0]["Plan"]
        names = sorted(set(_index_names(plan)))
        return Measured(plan["Total Cost"], tuple(self._definition(name) for name in names), plan)

    def canonical(self, table: str, rest: str) -> Definition:
        """Return an index on an empty copy of its table, as the server prints it."""
        self.run(f"CREATE TEMPORARY TABLE copy (LIKE {table})", f"CREATE INDEX ON copy {rest}")
        ((printed,),) = self.rows(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'copy'::regclass"
        )
        ((name,),) = self.rows(f"SELECT {_literal(table)}::regclass::text")
        self.run("DROP TABLE copy")
        return name, printed.partition(" USING ")[2]

    def _definition(self, name: str) -> str:
        ((table, definition),) = self.rows(
            "SELECT i.indrelid::regclass, pg_get_indexdef(i.indexrelid) FROM pg_index i "
            f"JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = {_literal(name)}"
        )
        return f"{table} {definition.partition(' USING ')[2].removeprefix('btree ')}"


def create_index(table: str, rest: str) -> str:
    """Return the statement that creates an index under a name of the server's choice."""
    return f"CREATE INDEX ON {table} {rest}"


def display(table: sa.Table) -> str:
    """Return a table's name as SQL."""
    return postgresql.dialect().identifier_preparer.format_table(table)


def candidates(statement: sa.Executable, keys: PerTable, also: PerTable) -> list[Definition]:
    """Return all permutations of up to three columns and expressions of each table.

    Raises ValueError if these are too many.
    """
    found = _columns(statement)
    for entity, texts in keys.items():
        found.setdefault(entity.__table__, {}).update((text, [text]) for text in texts)
    indexes = [
        (display(table), f"({', '.join(spelling)})")
        for table, spellings in found.items()
        for size in range(1, MAX_KEYS + 1)
        for chosen in permutations(spellings.values(), size)
        for spelling in product(*chosen)
    ]
    indexes += [(display(entity.__table__), rest) for entity in also for rest in also[entity]]
    if len(indexes) > MAX_INDEXES:
        raise ValueError(f"{len(indexes)} indexes are too many: {found}")
    return indexes


def tables(statement: sa.Executable, keys: PerTable, also: PerTable) -> set[str]:
    """Return the tables that a statement could have indexes on."""
    found = {display(table) for table in _columns(statement)}
    return found | {display(entity.__table__) for entity in (*keys, *also)}


def equalities(statement: sa.Executable) -> set[tuple[str, str]]:
    """Return table and column of what a statement compares with one value each.

    In an index, these come first, and their order does not matter.
    """
    found = set()
    for element in visitors.iterate(statement):
        for side in _held_to_one_value(element):
            for column in _real_columns(side):
                found.add((display(column.table), _quoted(column)))
    return found


def _columns(statement: sa.Executable) -> dict[sa.Table, dict[str, list[str]]]:
    """Return the columns of each table that can be indexed, with the spellings of each as a key."""
    keys: dict[sa.Table, dict[str, list[str]]] = {}
    elements = list(_elements(statement))
    for element in elements:
        for column in _real_columns(element):
            keys.setdefault(column.table, {}).setdefault(_quoted(column), [_quoted(column)])
    for element in elements:
        inner, direction = _ordered(element)
        for column in _real_columns(inner) if direction else ():
            spellings = keys[column.table][_quoted(column)]
            if _quoted(column) + direction not in spellings:
                spellings.append(_quoted(column) + direction)
    return keys


def _elements(statement: sa.Executable) -> Iterator[Any]:
    """Yield all parts of a statement but the values that an UPDATE sets."""
    return visitors.iterate(statement.whereclause if statement.is_update else statement)


def _real_columns(element: Any) -> Iterator[sa.Column[Any]]:
    """Yield the tables' columns that a column stands for, through aliases, CTEs and views."""
    if not _is_column(element):
        return
    for column in element.base_columns:
        if not isinstance(column, sa.Column):
            continue
        column = column.info.get("column", column)
        if not column.table.info.get("unfilled") and not isinstance(column.type, UNSORTED):
            yield column


def _ordered(element: Any) -> tuple[Any, str]:
    """Return what is sorted by, and its direction as CREATE INDEX spells it."""
    direction = ""
    while isinstance(element, sa.UnaryExpression) and element.modifier in _DIRECTIONS:
        direction = _DIRECTIONS[element.modifier] + direction
        element = element.element
    return element, direction


def _held_to_one_value(element: Any) -> list[Any]:
    """Return the columns that a comparison holds to one value: a constant, or that of a join."""
    if isinstance(getattr(element, "type", None), sa.Boolean) and _is_column(element):
        return [element]
    if not isinstance(element, sa.BinaryExpression):
        return []
    one = element.operator in (operators.eq, operators.is_)
    if element.operator is operators.in_op and isinstance(element.right, sa.BindParameter):
        one = len(element.right.value) == 1
    return [side for side in (element.left, element.right) if one and _is_column(side)]


def _is_column(element: Any) -> bool:
    return getattr(element, "__visit_name__", "") == "column" and element.table is not None


def _quoted(column: sa.Column[Any]) -> str:
    return postgresql.dialect().identifier_preparer.quote(column.name)


def _index_names(node: dict[str, Any]) -> Iterator[str]:
    if "Index Name" in node:
        yield node["Index Name"]
    for child in node.get("Plans", ()):
        yield from _index_names(child)


def _array(oids: Sequence[int]) -> str:
    return f"ARRAY[{', '.join(map(str, oids))}]::oid[]"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class _HeldBack(Exception):
    """A statement as the driver would have got it: its text and its parameters."""


def _hold_back(
    connection: sa.Connection,
    cursor: Any,
    statement: str,
    parameters: Any,
    context: Any,
    executemany: bool,
) -> None:
    if context.execution_options.get("hold_back"):
        raise _HeldBack(statement, parameters)

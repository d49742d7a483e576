"""The indexes that PlanWatch advises, and those that were created because of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, text

from flask_planwatch import Finding

from .extensions import db

# The models declare keys and constraints only: any other index was added later.
_ADDED_INDEXES = text("""
    SELECT index.relname, pg_get_indexdef(index.oid)
    FROM pg_index
    JOIN pg_class AS index ON index.oid = indexrelid
    JOIN pg_class AS relation ON relation.oid = indrelid
    WHERE relation.relname = ANY(:tables) AND pg_table_is_visible(relation.oid)
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    ORDER BY relation.relname DESC, index.relname
""")


@dataclass(frozen=True)
class AddedIndex:
    """An index that the models do not declare."""

    name: str
    definition: str


@dataclass(frozen=True)
class AdvisedIndex:
    """An index that PlanWatch advises, and the table that it is for."""

    relation: str
    ddl: tuple[str, ...]
    verdict: str

    @property
    def sql(self) -> str:
        """The statements, to be read."""
        return ";\n".join(self.ddl) + ";"

    @property
    def key(self) -> str:
        """The statements in one line, by which a form names the index."""
        return "; ".join(self.ddl)

    def is_among(self, added: Iterable[AddedIndex]) -> bool:
        """Whether the index exists already."""
        words = {word.strip('"') for statement in self.ddl for word in statement.split()}
        return any(index.name in words for index in added)


def added_indexes(connection: Connection) -> tuple[AddedIndex, ...]:
    """Return the indexes on the example's tables that the models do not declare."""
    rows = connection.execute(_ADDED_INDEXES, {"tables": list(db.metadata.tables)})
    return tuple(AddedIndex(*row) for row in rows)


def advised_indexes(findings: Iterable[Finding]) -> tuple[AdvisedIndex, ...]:
    """Return each index that the findings ask for, once."""
    advised: dict[tuple[str, ...], AdvisedIndex] = {}
    for finding in findings:
        for advice in finding.advice:
            if advice.kind == "create-index" and advice.verdict.status in {"verified", "untested"}:
                index = AdvisedIndex(finding.relation, advice.ddl, str(advice.verdict))
                advised.setdefault(advice.ddl, index)
    return tuple(advised.values())


def create_index(advised: AdvisedIndex) -> None:
    """Run the advised DDL, then ANALYZE: only then does an expression have statistics."""
    with _outside_transactions() as connection:
        for statement in advised.ddl:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql(f"ANALYZE {advised.relation}")


def drop_index(index: AddedIndex) -> None:
    """Drop an index that was added."""
    with _outside_transactions() as connection:
        name = connection.dialect.identifier_preparer.quote(index.name)
        connection.exec_driver_sql(f"DROP INDEX {name}")


def _outside_transactions() -> Connection:
    # The request's own transaction has read the table; DROP INDEX would wait for it for ever.
    db.session.rollback()
    return db.engine.connect().execution_options(isolation_level="AUTOCOMMIT", planwatch=False)

"""The fix of a story: the indexes that PlanWatch advises, or another form of the query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flask import current_app
from sqlalchemy import Connection, text

from flask_planwatch import Finding

from .extensions import db
from .story import Form, Story

# The models name their indexes; an advised one has another name.
_INDEXES = text("""
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


def form_in_use(story: Story) -> Form:
    """Return the form of the query that the app sends now."""
    return story.repaired if story.repaired and story.name in _switched() else story.slow


def is_applied(story: Story) -> bool:
    """Whether the fix is in place."""
    return bool(story.name in _switched() if story.repaired else added_indexes(story))


def added_indexes(story: Story) -> list[AddedIndex]:
    """Return the indexes on the story's tables that the models do not declare."""
    declared = {index.name for table in story.tables for index in db.metadata.tables[table].indexes}
    with db.engine.connect().execution_options(planwatch=False) as connection:
        rows = connection.execute(_INDEXES, {"tables": list(story.tables)})
        return [AddedIndex(*row) for row in rows if row[0] not in declared]


def advised_ddl(findings: Iterable[Finding]) -> list[str]:
    """Return the statements of each index that PlanWatch advises and did not reject, once each."""
    statements = [
        statement
        for finding in findings
        for advice in finding.advice
        if advice.kind == "create-index" and advice.verdict.status in {"verified", "untested"}
        for statement in advice.ddl
    ]
    return list(dict.fromkeys(statements))


def apply(story: Story, findings: Iterable[Finding]) -> None:
    """Ask in the repaired form from now on, or run the advised statements."""
    if story.repaired:
        _switched().add(story.name)
        return
    with _outside_transactions() as connection:
        for statement in advised_ddl(findings):
            connection.exec_driver_sql(statement)
        for table in story.tables:
            # Only then does an expression have statistics, and is each page known to be visible.
            name = connection.dialect.identifier_preparer.quote(table)
            connection.exec_driver_sql(f"VACUUM ANALYZE {name}")


def undo(story: Story) -> None:
    """Ask in the slow form again, or drop what was created."""
    _switched().discard(story.name)
    added = added_indexes(story)
    with _outside_transactions() as connection:
        for index in added:
            name = connection.dialect.identifier_preparer.quote(index.name)
            connection.exec_driver_sql(f"DROP INDEX {name}")


def _switched() -> set[str]:
    """Return the names of the stories whose query is asked in the repaired form."""
    switched: set[str] = current_app.extensions.setdefault("example_switched", set())
    return switched


def _outside_transactions() -> Connection:
    # The request's own transaction has read the table; DROP INDEX would wait for it for ever.
    db.session.rollback()
    return db.engine.connect().execution_options(isolation_level="AUTOCOMMIT", planwatch=False)

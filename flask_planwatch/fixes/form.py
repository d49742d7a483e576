"""How advice that changes the application's code is written: in words, and as SQLAlchemy code."""

from __future__ import annotations

from dataclasses import dataclass

from ..finding import Advice, AdviceKind, Verdict
from ..indexes.mapped import MappedTable, column_of
from ..plan.wording import say

#: PostgreSQL's comparisons in Python.
PYTHON_OPERATORS = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


@dataclass(frozen=True)
class Form:
    """The templates of a change: what to write, why, and the same as SQLAlchemy code."""

    summary: str
    explanation: str = ""
    code: str = ""
    kind: AdviceKind = AdviceKind.REWRITE

    def advice(self, verdict: Verdict, **facts: object) -> Advice:
        """Return the advice with these facts."""
        return Advice(
            self.kind,
            say(self.summary, **facts),
            verdict,
            sqlalchemy=say(self.code, **facts),
            explanation=say(self.explanation, **facts),
        )


def attribute_of(column: str, table: str, mapped: MappedTable | None) -> str:
    """Return how the app's code names a column; `mapped` is None if no class maps its table."""
    if mapped and column in mapped.attributes:
        return f"{mapped.class_name}.{mapped.attributes[column]}"
    return column_of(table, mapped.key(column) if mapped else column)


def key_of(column: str, mapped: MappedTable | None) -> str:
    """Return what SQLAlchemy calls a column in a sub-query that selects the app's name for it."""
    if mapped is None:
        return column
    return mapped.attributes.get(column, mapped.key(column))

"""A join in place of a sub-query that runs for each row, as a sketch in the names of the code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..finding import Advice, AdviceKind, Verdict
from ..plan.schema import Relation
from .mapped import MappedTable
from .rewrite import attribute_of
from .unnest import AGGREGATES

_NOT_NULL = (
    "IN and EXISTS agree unless a value is NULL: `NOT IN` with a NULL among the values finds "
    "nothing."
)


@dataclass(frozen=True)
class Tie:
    """A column of a sub-query's table that is compared by equality with one of the outer row."""

    relation: Relation
    column: str
    outer: Relation
    outer_column: str
    mapped: MappedTable | None
    outer_mapped: MappedTable | None

    @property
    def inner_attribute(self) -> str:
        """The sub-query's column in the names of the code."""
        return attribute_of(self.column, self.relation.name, self.mapped)

    @property
    def outer_attribute(self) -> str:
        """The outer row's column in the names of the code."""
        return attribute_of(self.outer_column, self.outer.name, self.outer_mapped)


def join_advice(ties: Sequence[Tie], *, aggregate: str, negated: bool, verdict: Verdict) -> Advice:
    """Return the advice on a sub-query that is tied to the outer row by these columns.

    `aggregate` is what it works out for each row as the plan prints it, nothing if it only looks
    for rows or for one value of them. `negated` tells that it is NOT IN without any tie.
    """
    if negated:
        summary, code, explanation = _not_exists()
    elif not ties:
        summary, code, explanation = _by_hand()
    elif aggregate:
        summary, code, explanation = _grouped(ties, aggregate)
    else:
        summary, code, explanation = _looked_up(ties)
    return Advice(
        kind=AdviceKind.REWRITE,
        summary=summary,
        verdict=verdict,
        sqlalchemy=code,
        explanation=explanation,
    )


def _grouped(ties: Sequence[Tie], aggregate: str) -> tuple[str, str, str]:
    keys = [tie.inner_attribute for tie in ties]
    columns = " and ".join(tie.column for tie in ties)
    function = _function(aggregate)
    value = "func.coalesce(grouped.c.value, 0)" if function == "count" else "grouped.c.value"
    conditions = [f"grouped.c.{tie.column} == {tie.outer_attribute}" for tie in ties]
    on = conditions[0] if len(conditions) == 1 else f"and_({', '.join(conditions)})"
    argument = "" if aggregate == "count(*)" else "…"
    code = [
        "grouped = (",
        f'    select({", ".join(keys)}, func.{function}({argument}).label("value"))',
        "    # … the joins and the other conditions of the sub-query",
        f"    .group_by({', '.join(keys)})",
        "    .subquery()",
        ")",
        f"statement = statement.outerjoin(grouped, {on})",
        f"# … and {value} in place of the sub-query",
    ]
    return (
        f"join a sub-query that is grouped by {columns}, in place of one that runs for each row",
        "\n".join(code),
        f"It works out {function}() for all rows in one pass. Where there is nothing to aggregate, "
        "the join has no row and the value is NULL.",
    )


def _looked_up(ties: Sequence[Tie]) -> tuple[str, str, str]:
    outer = [tie.outer_attribute for tie in ties]
    inner = ", ".join(tie.inner_attribute for tie in ties)
    left = outer[0] if len(outer) == 1 else f"tuple_({', '.join(outer)})"
    on = [f"{tie.inner_attribute} == {tie.outer_attribute}" for tie in ties]
    target = ties[0].inner_attribute.partition(".")[0]
    joined = on[0] if len(on) == 1 else f"and_({', '.join(on)})"
    code = [
        "# In place of EXISTS, which stays for each row beside an OR:",
        f".where(or_(…, {left}.in_(select({inner}).where(…))))",
        "# In place of a sub-query for one value:",
        f".outerjoin({target}, {joined})",
    ]
    columns = " and ".join(tie.column for tie in ties)
    return (
        f"join by {columns}, or use IN with a sub-query that does not depend on the outer row, in "
        "place of one that runs for each row",
        "\n".join(code),
        f"What does not depend on the outer row is worked out once. {_NOT_NULL}",
    )


def _not_exists() -> tuple[str, str, str]:
    return (
        "write NOT EXISTS in place of NOT IN: it becomes a join",
        ".where(~exists().where(….column == ….column, …))",
        "With NOT IN, PostgreSQL compares each row with all values, unless they fit into a hash "
        f"table of work_mem. {_NOT_NULL}",
    )


def _by_hand() -> tuple[str, str, str]:
    return (
        "work out what the sub-query says for all rows at once, in a sub-query that does not "
        "depend on the outer row, and join that",
        "",
        "The sub-query is not tied to the outer row by an equality that the plan shows, so that "
        "there is no simple form of it as a join.",
    )


def _function(aggregate: str) -> str:
    """Return the name of the aggregate in what a plan prints, `max` if it shows none."""
    words = (word.rpartition("(")[2].strip().lower() for word in aggregate.split("(")[:-1])
    return next((word for word in words if word in AGGREGATES), "max")

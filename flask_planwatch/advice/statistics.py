"""What tells the planner how many rows to expect: ANALYZE, and statistics of several columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..finding import Advice, AdviceKind, Verdict
from ..plan.comparison import plain_column
from ..plan.predicate import Conjunct, conjuncts, waits_for_a_value
from ..plan.schema import Relation, Structural
from ..plan.scrub import structural
from ..plan.tree import Node
from .index import index_name, quote
from .render import alembic_execute

#: Columns and expressions that CREATE STATISTICS takes (STATS_MAX_DIMENSIONS).
MAX_TERMS = 8


@dataclass(frozen=True)
class Conditions:
    """What a scan tests on the rows of its relation.

    `texts` are the conditions as printed. `terms` are the columns and expressions in them, as SQL
    for CREATE STATISTICS. `later` tells that a value is known only while the statement runs,
    `holds_value` that an expression which is none of the terms holds one.
    """

    texts: tuple[str, ...]
    terms: tuple[Structural, ...]
    later: bool
    holds_value: bool = False

    @property
    def may_go_together(self) -> bool:
        """Whether statistics that ANALYZE does not collect by itself would tell more of them."""
        known = not self.later and not self.holds_value
        return known and (len(self.terms) > 1 or self.terms[:1] != self.columns[:1])

    @property
    def columns(self) -> tuple[str, ...]:
        """The terms that are plain columns."""
        return tuple(term for term in self.terms if not term.startswith("("))


def conditions_of(scan: Node, relation: Relation, varying: frozenset[str]) -> Conditions:
    """Return what a scan tests, in its index or on each row; for `varying` see scrub_plan."""
    parts = {part.text: part for _, condition in scan.conditions for part in conjuncts(condition)}
    aliases = {
        alias
        for part in parts.values()
        for side in (part.left, part.right)
        for alias in side.aliases
    }
    later = any(map(waits_for_a_value, parts)) or aliases != {scan.alias}
    found = dict.fromkeys(
        term for part in parts.values() for term in _terms(part, scan, relation, varying)
    )
    terms = tuple(term for term in found if term is not None)[:MAX_TERMS]
    return Conditions(tuple(parts), terms, later, holds_value=None in found)


def _terms(
    part: Conjunct, scan: Node, relation: Relation, varying: frozenset[str]
) -> list[Structural | None]:
    """Return the columns and expressions of the scan that a condition is about, as SQL.

    None stands for an expression that holds a value.
    """
    found: list[Structural | None] = []
    for side in (part.left, part.right):
        if side.aliases != {scan.alias}:
            continue
        name = plain_column(side, relation)
        if name is not None:
            found.append(relation.quoted_column(name))
        elif side.columns and part.operator:
            term = structural(side.without_alias(), varying)
            found.append(None if term is None else Structural(f"({term})"))
        else:
            found += [relation.quoted_column(column) for column in side.column_names]
    return found


def analyse(relation: Relation, verdict: Verdict) -> Advice:
    """Return the advice to ANALYZE a table."""
    ddl = (f"ANALYZE {relation.display}",)
    changed = relation.activity.changed
    why = (
        f"About {changed:,} rows were written since it was analysed. Autovacuum does it by itself "
        "once a tenth of the rows has changed (autovacuum_analyze_scale_factor), which a large "
        "table reaches late: run it after a large import or deletion, or lower the share for this "
        "table with ALTER TABLE … SET (autovacuum_analyze_scale_factor = …)."
    )
    if not relation.has_statistics:
        why = "The table was never analysed, so that PostgreSQL can only guess."
    return Advice(
        kind=AdviceKind.ANALYZE,
        summary=ddl[0],
        verdict=verdict,
        ddl=ddl,
        alembic=alembic_execute(ddl),
        explanation=why,
    )


def extended(relation: Relation, terms: Sequence[Structural], verdict: Verdict) -> Advice:
    """Return the advice to collect statistics of several columns together, or of an expression."""
    ddl = (create_statistics(relation, terms), f"ANALYZE {relation.display}")
    what = "these columns together" if len(terms) > 1 else "this expression"
    return Advice(
        kind=AdviceKind.ANALYZE,
        summary="; ".join(ddl),
        verdict=verdict,
        ddl=ddl,
        alembic=alembic_execute(ddl),
        explanation=f"ANALYZE then keeps statistics of {what}. They cost nothing but a part of its "
        "time.",
    )


def create_statistics(relation: Relation, terms: Sequence[Structural]) -> str:
    """Return the statement that has ANALYZE collect statistics of these columns and expressions."""
    words = ", ".join(term.removeprefix("(").removesuffix(")") for term in terms)
    name = index_name(relation, words, frozenset()).replace("ix_", "st_", 1)
    # Of a single expression ANALYZE keeps what it keeps of a column.
    kinds = "(dependencies, mcv) " if len(terms) > 1 else ""
    return (
        f"CREATE STATISTICS {relation.schema_prefix}{quote(name)} {kinds}ON {', '.join(terms)} "
        f"FROM {relation.display}"
    )

"""The rules: one pure file each, whose docstring is its page in the documentation.

A rule module has `NAME`; `suspect(plan, schema)`, which names what looks wrong and the evidence it
needs; and `judge(suspicion, evidence)`, which returns a Hit, or a Miss with the reason.
"""

from __future__ import annotations

from typing import Protocol

from ..plan.evidence import Evidence, Hit, Miss, Suspicion
from ..plan.schema import Schema
from ..plan.tree import Plan
from . import (
    bitmap_overread,
    cost_mismatch,
    functional_predicate,
    generic_plan,
    implicit_cast,
    index_only_blocked,
    limit_trap,
    missing_index,
    pattern_match,
    repeated_subplan,
    row_misestimate,
    statement_failed,
)


class Rule(Protocol):
    """What a module of this package offers."""

    NAME: str

    def suspect(self, plan: Plan, schema: Schema) -> list[Suspicion]:
        """Return what looks wrong in a plan, each with the evidence that it needs."""

    def judge(self, suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
        """Return whether the evidence confirms a suspicion."""


#: All rules, in order of precedence: a predicate belongs to the first that suspects it.
RULES: tuple[Rule, ...] = (
    implicit_cast,
    pattern_match,
    index_only_blocked,
    limit_trap,
    functional_predicate,
    missing_index,
    repeated_subplan,
    row_misestimate,
    bitmap_overread,
    generic_plan,
    cost_mismatch,
    statement_failed,
)

"""The rules: one pure file each, whose docstring is its page in the documentation.

A rule module has `NAME`; `suspect(plan, schema)`, which names what looks wrong and the evidence it
needs; and `judge(suspicion, evidence)`, which returns a Hit, or a Miss with the reason.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from ..plan.evidence import Evidence, Hit, Miss, Suspicion
    from ..plan.schema import Schema
    from ..plan.tree import Plan


class Rule(Protocol):
    """What a module of this package offers."""

    NAME: str

    def suspect(self, plan: Plan, schema: Schema) -> list[Suspicion]:
        """Return what looks wrong in a plan, each with the evidence that it needs."""

    def judge(self, suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
        """Return whether the evidence confirms a suspicion."""


#: All rules, in order of precedence: a predicate belongs to the first that suspects it. A rule is
#: the module of this package that has its name.
RULES: tuple[str, ...] = (
    "implicit-cast",
    "pattern-match",
    "index-only-blocked",
    "limit-trap",
    "functional-predicate",
    "missing-index",
    "repeated-subplan",
    "row-misestimate",
    "bitmap-overread",
    "generic-plan",
    "cost-mismatch",
    "statement-failed",
)


def modules() -> tuple[Rule, ...]:
    """Return the modules of all rules.

    They bring sqlglot, which takes a while to load: only PlanWatch's thread calls this.
    """
    return tuple(
        cast(Rule, import_module(f".{name.replace('-', '_')}", __name__)) for name in RULES
    )

"""What the rules suspect in a plan, and what the evidence confirms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..plan.comparison import Comparison
from ..plan.evidence import Evidence, Hit, Miss, Suspicion
from ..plan.schema import Schema
from ..plan.scrub import holds_value, mask
from ..plan.tree import Node, Plan
from ..rules import Rule, modules
from ..runtime.pause import give_way

_EXPLAINED = "another finding explains how these rows are read"


@dataclass(frozen=True)
class Judged:
    """What the suspicions led to, and the evidence that was gathered for them.

    `settled` are the rules that judged the whole statement.
    """

    hits: tuple[Hit, ...]
    misses: tuple[Miss, ...]
    settled: frozenset[str]
    evidence: Evidence


def suspicions(plan: Plan, schema: Schema, varying: frozenset[str]) -> list[tuple[Rule, Suspicion]]:
    """Return what the rules suspect, in the order of their precedence."""
    found = []
    for rule in modules():
        give_way()
        for suspicion in rule.suspect(plan, schema):
            texts = [test.operand.text for test in suspicion.comparisons if _is_expression(test)]
            unsafe = any(holds_value(text) or mask(text) in varying for text in texts)
            unsafe = unsafe or any(mask(key) in varying for key in suspicion.keys)
            found.append((rule, replace(suspicion, holds_value=unsafe)))
    return found


def judge(
    suspected: list[tuple[Rule, Suspicion]],
    evidence: Evidence,
    gather: Callable[[Evidence, Suspicion], Evidence],
) -> Judged:
    """Return what the evidence confirms, and what it does not.

    `gather` adds the plans that a suspicion needs. A predicate belongs to the first rule whose
    judgement is not `foreign`. Raises ServerError if the connection fails.
    """
    hits: list[Hit] = []
    misses: list[Miss] = []
    settled: set[str] = set()
    claimed: set[tuple[str, str]] = set()
    taken: set[Node] = set()
    for rule, suspicion in suspected:
        give_way()
        if suspicion.predicate in claimed:
            continue
        if suspicion.scans and taken.issuperset(suspicion.scans):
            misses.append(Miss(suspicion, _EXPLAINED))
            continue
        evidence = gather(evidence, suspicion)
        result = rule.judge(suspicion, evidence)
        if isinstance(result, Miss):
            if result.foreign:
                continue
            misses.extend([] if result.quiet else [result])
        else:
            share = result.suspicion.share(evidence.plan)
            few_rows = 0 < result.rows < evidence.min_rows
            hits.append(replace(result, share=share, few_rows=few_rows))
            taken.update(result.suspicion.scans if result.suspicion.exclusive else ())
        if not suspicion.whole:
            claimed.add(suspicion.predicate)
        # With other values, such a Miss may be a Hit.
        elif isinstance(result, Hit) or not result.by_parameters:
            settled.add(suspicion.rule)
    return Judged(tuple(hits), tuple(misses), frozenset(settled), evidence)


def _is_expression(comparison: Comparison) -> bool:
    """Whether an index would hold the operand, and it is not just a column."""
    return comparison.operator != "" and comparison.column is None

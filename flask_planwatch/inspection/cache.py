"""Remembers results: what was judged is not judged again for the same plan and the same tables.

Most inspections are of a statement that was inspected before and whose plan is the same but for the
values. All that rules, fixes and the planner's trials rest on is part of the key; figures in it may
differ a little. A result that holds saves 1 of 2 ms where the plan is good, and 5 of 6 ms where
indexes were tried (benchmarks/caches.py, on PlanWatch's thread).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from math import frexp
from statistics import median
from typing import Any

from ..capture.execution import Capture
from ..indexes.candidate import Candidate
from ..plan.evidence import Evidence
from ..plan.figures import MIN_EXECUTIONS, MIN_MS
from ..plan.predicate import BTREE_OPERATORS, PARTIAL_OPERATORS, Conjunct, predicates
from ..plan.schema import Relation
from ..plan.scrub import mask, scrub_conjuncts
from ..plan.tree import Node, Plan
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.clock import now as _now
from ..settings import LOG_INTERVAL
from .result import Result

#: How long a result without a hit holds, in seconds: as long as a finding is not logged again.
NO_HIT_SECONDS = LOG_INTERVAL

#: How long a result with a hit holds, in seconds. What was advised may become possible by what no
#: plan and no table shows: a function that is IMMUTABLE by now, or a class that is mapped.
HIT_SECONDS = 60.0

#: Results that are remembered; the one that was asked for longest ago goes first.
MAX_RESULTS = 2000

#: Rows and costs up to this are similar, whatever their factor.
SIMILAR_ROWS = 10.0

#: A plan of more steps is judged each time: its key would take the place of all others.
MAX_STEPS = 200

#: Comparisons in which only the rows depend on the value.
_ORDINARY = BTREE_OPERATORS | PARTIAL_OPERATORS

_LIKE = frozenset({"~~", "~~*"})
_PATTERN = re.compile(r"('(?:[^'\\]|'')*')(.*)", re.DOTALL)
_LETTER = re.compile(r"[^\W_]")


class ResultCache:
    """The results on the statements of one app and engine. Used on PlanWatch's thread only."""

    def __init__(self, clock: Callable[[], float] = _now) -> None:
        self._clock = clock
        self._kept: RecentlyUsed[Hashable, tuple[Result, float]] = RecentlyUsed(LEARNT, MAX_RESULTS)

    def find(self, key: Hashable) -> Result | None:
        """Return the result that still holds for a key, None if there is none."""
        result, until = self._kept.get(key, (None, 0.0))
        return result if self._clock() < until else None

    def keep(self, key: Hashable, result: Result) -> None:
        """Remember a result, if it lasts; a key of None stands for what is not remembered."""
        if key is not None and result.lasts:
            seconds = HIT_SECONDS if result.has_hits else NO_HIT_SECONDS
            self._kept.keep(key, (result, self._clock() + seconds))


def result_key(
    origin: str, capture: Capture, evidence: Evidence, proposed: tuple[Candidate, ...]
) -> Hashable:
    """Return what the result on a capture rests on, None if it must be judged in any case.

    `origin` is the identity of the statement and of the line of code that it came from, `proposed`
    are the indexes that are proposed for other statements.
    """
    plan, schema, rows = evidence.plan, evidence.schema, evidence.returned_rows
    if capture.urgent or capture.error is not None or len(plan.nodes) > MAX_STEPS:
        return None
    return (
        origin,
        tuple(_shape(plan, evidence)),
        tuple(_table(relation, evidence.min_rows) for relation in schema.relations.values()),
        schema.references,
        schema.extensions,
        frozenset(index for index in proposed if index.relation.key in schema.relations),
        evidence.varying,
        evidence.parameter_types,
        evidence.client_side,
        None if rows is None else _magnitude(rows),
        _prepared(capture),
        tuple(_times(capture, evidence)),
    )


def _magnitude(figure: float, least: float = SIMILAR_ROWS) -> int:
    """Return what is the same for similar figures, which are within a factor of two.

    The thresholds of the rules are further apart.
    """
    return frexp(max(figure, least))[1]


def _shape(plan: Plan, evidence: Evidence) -> Iterator[Hashable]:
    """Yield each step of a plan without the values that nothing but its rows depends on."""
    for node in plan.nodes:
        conditions = predicates(plan)[id(node)]
        yield (
            node.type,
            node.qualified_relation,
            node.alias,
            node.index,
            node.parallel,
            node.join_type,
            node.subplan,
            node.relationship,
            node.operation,
            node.function,
            len(node.children),
            _magnitude(node.rows),
            _magnitude(node.total_cost),
            tuple(_texts(node)),
            tuple(
                (kind, tuple(_condition(conjunct, evidence) for conjunct in conjuncts))
                for kind, conjuncts in conditions
            ),
            # A condition that could not be read has no conjuncts.
            tuple(
                text
                for (_, text), (_, conjuncts) in zip(node.conditions, conditions, strict=True)
                if evidence.show_values or not conjuncts
            ),
        )


def _texts(node: Node) -> Iterator[str]:
    for text in (*node.sort_keys, *node.group_keys, *node.output):
        yield mask(text, keep_names=True)


def _condition(conjunct: Conjunct, evidence: Evidence) -> str:
    """Return a condition without its value, but as it is where the value decides what is said.

    That is so of the shape of a pattern, of what OR joins, and of a number that a column is cast
    for.
    """
    sides = (conjunct.left, conjunct.right)
    casts = [side.cast_column for side in sides if side.cast_column]
    if conjunct.operator in _ORDINARY and all(kind == "text" for _, kind in casts):
        return scrub_conjuncts((conjunct,), evidence.varying)
    pattern = _PATTERN.fullmatch(conjunct.right.text) if conjunct.operator in _LIKE else None
    if pattern is not None:
        # Which letters it is made of makes no difference, but for the rows.
        shape = _LETTER.sub("a", pattern[1]) + pattern[2]
        return f"{conjunct.left.text} {conjunct.operator} {shape}"
    return conjunct.text


def _table(relation: Relation, min_rows: int) -> Hashable:
    """Return what the catalog says of a relation: its mark, its size and what was written."""
    counted = relation.activity
    figures = (relation.rows, relation.pages, relation.visible_pages)
    written = (counted.written, counted.dead, counted.changed)
    return (
        relation.key,
        relation.mark,
        relation.rows < min_rows,
        *map(_magnitude, (*figures, *written)),
    )


def _times(capture: Capture, evidence: Evidence) -> Iterator[int]:
    """Yield what rules judge by; below MIN_MS it makes no difference to them."""
    timings = evidence.timings
    outside_ms = timings.outside_ms(evidence.plan, evidence.returned_rows)
    yield min(len(timings.recent), MIN_EXECUTIONS)
    yield _magnitude(capture.duration_ms, MIN_MS)
    yield _magnitude(evidence.in_plan_ms, MIN_MS)
    yield _magnitude(median(timings.recent or (0.0,)) - outside_ms, MIN_MS)
    # Whether a LIMIT was reached early shows in shorter times, too; 1 ms is a round trip.
    limited = evidence.plan.limits(evidence.plan.scans)
    yield _magnitude(timings.fastest_ms - outside_ms, 1.0 if limited else MIN_MS)
    # A thousand units are a plan that is worth a look.
    yield _magnitude((timings.ms_per_cost or 0.0) * 1000, 1.0)


class _Same:
    """Equal only to the same object, which lives as long as it does."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _prepared(capture: Capture) -> Hashable:
    """Return the parameters by which a statement is judged that its driver has prepared."""
    preparation = capture.preparation
    if preparation is None or not preparation.reached:
        return preparation and preparation.threshold
    return (
        preparation.threshold,
        preparation.order,
        capture.text,
        tuple(map(_Same, preparation.sets)),
    )

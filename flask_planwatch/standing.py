"""When the outcome of an earlier inspection still stands, so that nothing is judged again.

Most inspections are of a statement that was inspected before and whose plan is the same but for the
values. An outcome stands only if all that rules, remedies and the planner's trials rest on is the
same, or, where it is a figure, nearly the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .advice.index import Candidate
from .advice.verdict import Advised
from .capture import Capture
from .clock import now as _now
from .finding import Dismissal, Skip
from .plan.evidence import MIN_EXECUTIONS, Evidence, Hit
from .plan.predicate import BTREE_OPERATORS, PARTIAL_OPERATORS, Conjunct, predicates
from .plan.schema import Relation
from .plan.scrub import mask, scrub_conjuncts
from .plan.tree import Node, Plan
from .room import LEARNT, Latest
from .rules import cost_mismatch, generic_plan, row_misestimate, statement_failed
from .rules.loops import MIN_MS

#: Figures are nearly the same within this factor: between rules' thresholds lies far more.
FACTOR = 2.0

#: Whatever their factor, rows and costs that differ by less are nearly the same.
SLACK = 10.0

#: So are times, in ms: that is little more than the way to the server and back takes.
SLACK_MS = 1.0

#: Seconds that an outcome without any hit stands. It is as long as the same finding is not logged
#: again: after that, what is said or not said rests on another look.
QUIET_SECONDS = 3600.0

#: Seconds that one with a hit stands: what was advised may have become possible by something that
#: no plan and no table shows: a function that is IMMUTABLE by now, or a class that is mapped.
HIT_SECONDS = 60.0

#: Outcomes that are remembered; the one that was asked for longest ago goes first.
MAX_OUTCOMES = 2000

#: A plan of more steps is judged each time: one of these would take the place of all others.
MAX_STEPS_OF_ONE = 200

#: What stands for the origin of a conclusion that holds for any statement with such a plan.
_ANY = ""

#: Rules whose hits tell figures of the very execution.
_OF_ONE_EXECUTION = frozenset(
    {cost_mismatch.NAME, generic_plan.NAME, row_misestimate.NAME, statement_failed.NAME}
)

#: Comparisons of which nothing but the rows depends on the value.
_ORDINARY = BTREE_OPERATORS | PARTIAL_OPERATORS

_LIKE = frozenset({"~~", "~~*"})
_PATTERN = re.compile(r"('(?:[^'\\]|'')*')(.*)", re.DOTALL)
_LETTER = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Conclusion:
    """What came of a statement's suspicions: hits with advice, dismissals, and what was not told.

    `settled` are the rules that judged the whole statement, `chosen` the indexes that are proposed
    for it. `blocked` tells that a lock was in the way, `analysed` that the statement was run.
    `general` ones hold for all statements with such a plan: no comparison was suspected, and no
    index depends on constants, which statements from several places may differ in.
    """

    advised: tuple[tuple[Hit, Advised], ...]
    dismissals: tuple[Dismissal, ...]
    settled: frozenset[str]
    chosen: tuple[Candidate, ...]
    served: frozenset[tuple[str, str]]
    unanswered: tuple[Skip, ...]
    tried: bool
    blocked: bool
    analysed: bool
    general: bool = False

    @property
    def lasts(self) -> bool:
        """Whether it says nothing that is true of one execution only."""
        rules = {hit.suspicion.rule for hit, _ in self.advised}
        passing = self.blocked or self.analysed or self.unanswered
        return not passing and rules.isdisjoint(_OF_ONE_EXECUTION)

    @property
    def seconds(self) -> float:
        """How long it stands at most."""
        return HIT_SECONDS if self.advised or self.tried else QUIET_SECONDS

    @property
    def by_values(self) -> bool:
        """Whether something was dismissed only for the values of this execution.

        What was dismissed of a generic plan rests on the sets of parameters, which are compared in
        any case.
        """
        return any(one.by_parameters and one.rule != generic_plan.NAME for one in self.dismissals)


@dataclass(frozen=True)
class Circumstances:
    """All that a conclusion rests on.

    `same` must be the same, and so must the objects in `sets`, the parameters that a prepared
    statement got. `expected` are the plan's rows and costs and the rows that came, `tables` the
    sizes of the tables and what happened to them, `times` are in ms.
    """

    same: Hashable
    sets: tuple[Any, ...] = field(repr=False)
    expected: tuple[float, ...]
    tables: tuple[float, ...]
    times: tuple[float, ...]

    def like(self, other: Circumstances, *, by_values: bool) -> bool:
        """Whether what was concluded under these circumstances holds under the other ones, too.

        The rows must be the very same if values were a reason: they may come near a threshold.
        """
        return (
            self.same == other.same
            and len(self.sets) == len(other.sets)
            and all(one is two for one, two in zip(self.sets, other.sets, strict=True))
            and (
                self.expected == other.expected
                if by_values
                else _nearly(self.expected, other.expected, SLACK)
            )
            and _nearly(self.tables, other.tables, SLACK)
            and _nearly(self.times, other.times, SLACK_MS)
        )


def _nearly(these: tuple[float, ...], those: tuple[float, ...], slack: float) -> bool:
    return len(these) == len(those) and all(
        max(one, two) <= max(min(one, two) * FACTOR, min(one, two) + slack)
        for one, two in zip(these, those, strict=True)
    )


def circumstances(
    capture: Capture, evidence: Evidence, proposed: tuple[Candidate, ...]
) -> Circumstances | None:
    """Return what the conclusion on a capture will rest on; None if it must be judged in any case.

    `proposed` are the indexes that are proposed for other statements.
    """
    plan, schema, timings = evidence.plan, evidence.schema, evidence.timings
    if capture.urgent or capture.error is not None or len(plan.nodes) > MAX_STEPS_OF_ONE:
        return None
    preparation = capture.preparation
    prepared: Hashable = None
    sets: tuple[Any, ...] = ()
    if preparation is not None:
        prepared = (preparation.threshold, preparation.reached)
        if preparation.reached:
            prepared = (preparation.threshold, preparation.order, capture.text)
            sets = preparation.sets
    rows = evidence.returned_rows
    relations = tuple(schema.relations.values())
    return Circumstances(
        same=(
            tuple(_shape(plan, evidence)),
            tuple(map(_structure, relations)),
            tuple(relation.rows < evidence.min_rows for relation in relations),
            schema.references,
            schema.extensions,
            frozenset(one for one in proposed if one.relation.key in schema.relations),
            evidence.varying,
            evidence.parameter_types,
            evidence.client_side,
            rows is None,
            min(len(timings.recent), MIN_EXECUTIONS),
            prepared,
        ),
        sets=sets,
        expected=(
            rows or 0,
            *(figure for node in plan.nodes for figure in (node.rows, node.total_cost)),
        ),
        tables=tuple(figure for relation in relations for figure in _figures(relation)),
        times=tuple(_times(capture, evidence)),
    )


def _times(capture: Capture, evidence: Evidence) -> Iterator[float]:
    """Yield what rules judge by, in ms; below MIN_MS it makes no difference to them."""
    timings = evidence.timings
    yield max(capture.duration_ms, MIN_MS)
    yield max(median(timings.recent or (0.0,)), MIN_MS)
    # Whether a LIMIT was reached early shows in shorter times, too.
    yield timings.fastest_ms if evidence.plan.limited else max(timings.fastest_ms, MIN_MS)
    # In µs, as SLACK_MS is more than all of it.
    yield (timings.ms_per_cost or 0.0) * 1000


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
            tuple(_texts(node)),
            tuple(
                (kind, tuple(_condition(one, evidence) for one in conjuncts))
                for kind, conjuncts in conditions
            ),
            # One that could not be read has no conjuncts.
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
    casts = [one.cast_column for one in (conjunct.left, conjunct.right) if one.cast_column]
    if conjunct.operator in _ORDINARY and all(kind == "text" for _, kind in casts):
        return scrub_conjuncts((conjunct,), evidence.varying)
    pattern = _PATTERN.fullmatch(conjunct.right.text) if conjunct.operator in _LIKE else None
    if pattern is not None:
        # Which letters it is made of makes no difference, but for the rows.
        shape = _LETTER.sub("a", pattern[1]) + pattern[2]
        return f"{conjunct.left.text} {conjunct.operator} {shape}"
    return conjunct.text


def _structure(relation: Relation) -> Hashable:
    return (
        relation.key,
        relation.display,
        relation.kind,
        relation.root,
        relation.columns,
        relation.indexes,
        relation.partitions,
        relation.has_statistics,
    )


def _figures(relation: Relation) -> tuple[float, ...]:
    counted = relation.activity
    return (
        relation.rows,
        relation.pages,
        relation.visible_pages,
        counted.written,
        counted.dead,
        counted.changed,
    )


@dataclass(frozen=True)
class _Remembered:
    circumstances: Circumstances
    conclusion: Conclusion
    until: float


class Conclusions:
    """Remembers what was concluded on the statements of one app and engine.

    `origin` is the identity of a statement and of the line of code that it came from. Used on
    PlanWatch's thread only, but for `forget`.
    """

    def __init__(self, clock: Callable[[], float] = _now) -> None:
        self._clock = clock
        self._kept: Latest[Hashable, _Remembered] = Latest(LEARNT, MAX_OUTCOMES)
        self._forgotten = False

    def standing(
        self,
        origin: str,
        now: Circumstances | None,
    ) -> Conclusion | None:
        """Return what was concluded under such circumstances, None if that must be done anew."""
        if self._forgotten:
            self._forgotten = False
            self._kept.clear()
        if now is None:
            return None
        key: Hashable = (origin, now.same)
        kept = self._kept.get(key)
        if kept is None:
            key = (_ANY, now.same)
            kept = self._kept.get(key)
        if kept is None:
            return None
        earlier, conclusion = kept.circumstances, kept.conclusion
        stands = self._clock() < kept.until and earlier.like(now, by_values=conclusion.by_values)
        if not stands:
            self._kept.pop(key)
            return None
        return conclusion

    def keep(
        self,
        origin: str,
        now: Circumstances | None,
        conclusion: Conclusion,
    ) -> None:
        """Remember a conclusion, if it lasts."""
        if now is None or not conclusion.lasts:
            return
        key = (_ANY if conclusion.general else origin, now.same)
        until = self._clock() + conclusion.seconds
        self._kept.keep(key, _Remembered(now, conclusion, until))

    def forget(self) -> None:
        """Forget all of them, before the next one is asked for. Safe to call from any thread."""
        self._forgotten = True

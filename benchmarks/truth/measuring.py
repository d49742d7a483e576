"""Measures a statement in several variants that take turns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median
from time import monotonic
from typing import Any

from ..estimate import Estimate, median_of
from .servers import Cancelled, Session
from .statement import Statement

#: What is compared with all others.
BEFORE = "before"

#: Seconds of processor time in a turn, at least: the clock of parallel workers has steps of 10 ms.
_TURN = 0.1

#: What a plan has that may be executed in parallel.
_PARALLEL = '"Workers Planned"'

#: Executions in a turn, at most: each also takes time of the client's.
_MOST_EXECUTIONS = 100

#: Rounds, at least unless there is no time for them, and at most.
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 25


@dataclass(frozen=True)
class Variant:
    """A statement on a connection; `prepare` makes the server ready for it."""

    session: Session
    statement: Statement
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Measured:
    """What one variant took: the median of its rounds, in ms of the server's processor time.

    `ratio` is that to `before` in the same round. `plan` is the plan as it was executed. If it was
    cancelled, `ms` is what it took until then, and there is no plan.
    """

    ms: float
    cancelled: bool
    rounds: int
    ratio: Estimate
    plan: Mapping[str, Any] | None

    @property
    def buffers(self) -> int | None:
        """The pages that it read, wherever they came from."""
        if self.plan is None:
            return None
        return int(self.plan["Shared Hit Blocks"] + self.plan["Shared Read Blocks"])

    def data(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "ms": self.ms,
            "buffers": self.buffers,
            "cancelled": self.cancelled,
            "rounds": self.rounds,
            "ratio": self.ratio._asdict(),
        }


def measure(
    variants: Mapping[str, Variant], seconds: float, limits: tuple[float, ...]
) -> dict[str, Measured]:
    """Measure the variants, `before` among them, for about so many seconds.

    It ends earlier if the interval of each ratio leaves out each of the limits. Each round is
    completed in any case. If there is nothing to compare, one is enough.
    """
    ends = monotonic() + seconds
    like = _with_equal_plans(variants)
    different = {name: variants[name] for name in dict.fromkeys(like.values())}
    plans: dict[str, Mapping[str, Any]] = {}
    cancelled: dict[str, float] = {}
    for name, variant in different.items():
        variant.prepare()
        try:
            plans[name] = variant.session.analysed(variant.statement)
        except Cancelled as error:
            cancelled[name] = error.seconds
    times: dict[str, int] = {}
    taken: dict[str, list[float]] = {name: [] for name in different}
    for number in range(_MOST_ROUNDS):
        order = list(different) if number % 2 == 0 else list(reversed(different))
        for name in order:
            if name not in cancelled:
                try:
                    taken[name].append(_turn(different[name], times, name))
                    continue
                except Cancelled as error:
                    cancelled[name] = error.seconds
            taken[name].append(cancelled[name])
        if monotonic() > ends or len(cancelled) == len(different) or len(different) == 1:
            break
        if number + 1 >= _FEWEST_ROUNDS and all(
            _leaves_out(_ratio(taken[name], taken[BEFORE]), limits)
            for name in different
            if name != BEFORE
        ):
            break
    return {
        name: Measured(
            ms=median(taken[like[name]]) * 1000,
            cancelled=like[name] in cancelled,
            rounds=len(taken[like[name]]),
            ratio=_ratio(taken[like[name]], taken[BEFORE]),
            plan=None if like[name] in cancelled else plans[like[name]],
        )
        for name in variants
    }


def _with_equal_plans(variants: Mapping[str, Variant]) -> dict[str, str]:
    """Return for each variant the first that has the same plan: what is executed is the same.

    A plan that changes rows does not say what foreign keys search for.
    """
    first: dict[tuple[Session, str, str], str] = {}
    like = {}
    for name, variant in variants.items():
        variant.prepare()
        plan = variant.session.plan(variant.statement)
        said = name if plan["Node Type"] == "ModifyTable" else json.dumps(plan)
        like[name] = first.setdefault((variant.session, variant.statement.text, said), name)
    return like


def _turn(variant: Variant, times: dict[str, int], name: str) -> float:
    variant.prepare()
    # Reads what changed in the catalog, too, which does not belong to the statement.
    workers = _PARALLEL in json.dumps(variant.session.plan(variant.statement))
    if name not in times:
        first = variant.session.seconds(variant.statement, workers=workers)
        times[name] = min(_MOST_EXECUTIONS, ceil(_TURN / max(first, 1e-6)))
        if times[name] == 1:
            return first
    return variant.session.seconds(variant.statement, times[name], workers=workers)


def _ratio(rounds: list[float], before: list[float]) -> Estimate:
    return median_of(one / other for one, other in zip(rounds, before, strict=True))


def _leaves_out(ratio: Estimate, limits: tuple[float, ...]) -> bool:
    return not any(ratio.low <= limit <= ratio.high for limit in limits)

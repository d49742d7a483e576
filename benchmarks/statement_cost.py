"""Part A: what each statement takes longer on the application's side.

Each variant has a process of its own, so that nothing global of one reaches another. They take
turns with small blocks of statements, in random order: a busy machine is busy for all of them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from sqlalchemy import URL

from .estimate import Estimate, Goal, median_of
from .server import url_for
from .variants import serve
from .workload import WORKLOADS, Timing

BARE, EMPTY, FEW, MANY, SAMPLED = (
    "bare",
    "empty",
    "planwatch",
    "planwatch-many",
    "planwatch-sampled",
)
CLOCKS = Timing._fields

#: µs that a statement that is not sampled may add to empty listeners.
MAX_OVER_EMPTY = 3.0

#: What a statement that is not sampled may cost of what OpenTelemetry costs that samples nothing.
MAX_OF_OPENTELEMETRY = {"new": 1 / 4, "open": 1 / 7}

#: µs that a sampled statement may cost more than others.
MAX_SAMPLED = 10.0

#: µs that many known statements may always cost more than few: less is not worth a word.
MAX_MANY = 0.5

#: Seconds that a process may take to stop.
_STOP_PATIENCE = 30


@dataclass
class Rounds:
    """The timings of one driver: in each round, each variant has run one block."""

    driver: str
    blocks: dict[tuple[str, str], list[Timing]] = field(default_factory=lambda: defaultdict(list))
    unavailable: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def bare(self, workload: str, clock: str) -> float:
        """Return the median µs of bare SQLAlchemy by one of CLOCKS."""
        return median_of(getattr(one, clock) for one in self.blocks[workload, BARE]).value

    def added(self, workload: str, variant: str, clock: str, over: str = BARE) -> Estimate | None:
        """Return the µs that a variant adds over another in the same round, None if unknown."""
        pairs = zip(self.blocks[workload, variant], self.blocks[workload, over], strict=False)
        differences = [getattr(mine, clock) - getattr(other, clock) for mine, other in pairs]
        return median_of(differences) if differences else None


def measure(
    url: URL, driver: str, variants: list[str], *, sittings: int, rounds: int, statements: int
) -> Rounds:
    """Run `rounds` rounds in each sitting; each sitting has new processes.

    Two processes of the same program differ by a few µs for as long as they live, by where their
    memory happens to lie. Several sittings average this out.
    """
    result = Rounds(driver)
    for _ in range(sittings):
        with _processes(url_for(url, driver), variants, result) as pipes:
            for _ in range(rounds):
                for workload in random.sample(list(WORKLOADS), len(WORKLOADS)):
                    for name in random.sample(list(pipes), len(pipes)):
                        pipes[name].send((workload, statements))
                        result.blocks[workload, name].append(pipes[name].recv())
            for name, pipe in pipes.items():
                pipe.send(None)
                result.facts[name] = pipe.recv()
    return result


def goals(result: Rounds, clock: str) -> Iterator[Goal]:
    """Compare what was measured with what it may be."""
    for workload in WORKLOADS:
        where = f"{result.driver}, {workload}"
        over_empty = result.added(workload, FEW, clock, EMPTY)
        if over_empty:
            yield Goal(
                f"not sampled, more than empty listeners: {where}",
                over_empty.value,
                MAX_OVER_EMPTY,
                "µs",
            )
        mine, theirs = (result.added(workload, name, clock) for name in (FEW, "opentelemetry-off"))
        if mine and theirs:
            yield Goal(
                f"not sampled, of what OpenTelemetry costs always off: {where}",
                mine.value / theirs.value,
                next(limit for word, limit in MAX_OF_OPENTELEMETRY.items() if word in workload),
                "",
            )
        sampled = result.added(workload, SAMPLED, clock, FEW)
        if sampled:
            yield Goal(f"sampled, more than not sampled: {where}", sampled.value, MAX_SAMPLED, "µs")
        many = result.added(workload, MANY, clock, FEW)
        noise = result.added(workload, "bare-again", clock)
        if many and noise:
            yield Goal(
                f"many statements known, more than few, the noise apart: {where}",
                max(0.0, many.value - max(abs(noise.low), abs(noise.high))),
                MAX_MANY,
                "µs",
            )


@contextmanager
def _processes(url: URL, variants: list[str], result: Rounds) -> Iterator[dict[str, Any]]:
    """Start a process for each variant, wait until all are prepared, and end them."""
    context = get_context("spawn")
    pipes: dict[str, Any] = {}
    processes = []
    for name in variants:
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, name, url), name=name)
        process.start()
        theirs.close()
        processes.append(process)
    try:
        for name in variants:
            refusal = pipes[name].recv()
            if refusal is not None:
                result.unavailable[name] = refusal
                del pipes[name]
        yield pipes
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join(_STOP_PATIENCE)
            process.kill()

"""What a search over all small indexes would choose, by the planner's costs alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import NamedTuple

from .built import BuiltIndexes
from .servers import Session
from .statement import Statement
from .tpch import TABLES, columns

_NAME = re.compile(r"\b[a-z]+_\w+\b")

#: A smaller share of the cost of all queries is no gain.
_LEAST_GAIN = 1e-6


class Small(NamedTuple):
    """An index on one or two columns, and the queries that name its first column."""

    command: str
    queries: tuple[Statement, ...]


def small_indexes(queries: Sequence[Statement]) -> list[Small]:
    """Return all indexes on one column that a query names, and on two that one query names."""
    named = {query.name: set(_NAME.findall(query.text)) for query in queries}
    found = []
    for table in TABLES:
        own = columns(table)
        for names in [*((name,) for name in own), *permutations(own, 2)]:
            if any(words.issuperset(names) for words in named.values()):
                users = tuple(query for query in queries if names[0] in named[query.name])
                found.append(Small(f"CREATE INDEX ON {table} ({', '.join(names)})", users))
    return found


class _Costs:
    """The costs of queries with some of the small indexes; none is asked for twice."""

    def __init__(self, built: BuiltIndexes, session: Session) -> None:
        self._built, self._session = built, session
        self._known: dict[tuple[str, frozenset[str]], float] = {}

    def of(self, query: Statement, indexes: Iterable[Small]) -> float:
        """Return the cost; an index whose first column a query does not name is of no use to it."""
        used = frozenset(one.command for one in indexes if query in one.queries)
        known = self._known.get((query.name, used))
        if known is None:
            self._built.use(
                frozenset[int]().union(*(self._built.build((command,)) for command in used))
            )
            known = self._known[query.name, used] = self._session.cost(query)
        return known


def search(
    built: BuiltIndexes,
    session: Session,
    queries: Sequence[Statement],
    number: int,
    check_time: Callable[[], None],
) -> tuple[str, ...]:
    """Return the commands of so many indexes at most: each time the one that saves most.

    All candidates are really built for that, and then dropped.
    """
    candidates = small_indexes(queries) if number else []
    made: frozenset[int] = frozenset()
    try:
        for candidate in candidates:
            check_time()
            made |= built.build((candidate.command,))
        costs = _Costs(built, session)
        total = sum(costs.of(query, ()) for query in queries)
        chosen: list[Small] = []
        while len(chosen) < number:
            best: tuple[float, Small | None] = (total * _LEAST_GAIN, None)
            for candidate in candidates:
                check_time()
                gain = sum(
                    costs.of(query, chosen) - costs.of(query, [*chosen, candidate])
                    for query in candidate.queries
                )
                if gain > best[0]:
                    best = gain, candidate
            if best[1] is None:
                break
            chosen.append(best[1])
        return tuple(one.command for one in chosen)
    finally:
        built.drop(made)

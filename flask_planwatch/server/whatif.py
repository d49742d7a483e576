"""Tries whether the planner would use an index: the base of `hypopg` and `builds`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..failure import ServerError
from ..finding import SkipReason
from ..indexes.candidate import Candidate
from ..indexes.search import Attempt, OutOfTime
from ..indexes.writing import cost_of_writes
from ..plan.evidence import Suspicion
from ..plan.tree import Plan
from ..plan.wording import say
from .explain import Query
from .transaction import NO_SERVER, Transaction

HYPOPG, BUILD = "hypopg", "build"

#: "functions in index expression must be marked IMMUTABLE"
_NOT_IMMUTABLE = "42P17"

#: "index row size … exceeds btree version 4 maximum 2704"
_LIMIT_EXCEEDED = "54000"

#: The beginning of the names of savepoints and indexes.
PREFIX = "planwatch_trial"

#: Why an index was not tried, or not with all others.
TOOK_TOO_LONG = "trying the index took too long"
_FAILED = "the index could not be tried: {error}"
_VALUES_TOO_LONG = "some values are too long for a btree index"


class NotImmutable(Exception):
    """The server refused the index: its expression is not IMMUTABLE."""


class Blocked(Exception):
    """A table was locked, most likely by the current request; a later trial may succeed."""


class Untestable(Exception):
    """The index could not be tried; the message says why, and how to enable it."""


class TooLong(Exception):
    """A value in the table is too long for the index; a later INSERT could fail too."""


class Trials(ABC):
    """Tries candidate indexes for one statement, in one transaction.

    `method` is HYPOPG or BUILD, `before` the plan without any candidate. `refused` has a
    NotImmutable, TooLong or Untestable for each candidate that could not be created, `sizes` the
    bytes of those that could. `untried` are those that `most` had no time for. `definitions` has
    the keys of each as the server prints them, where it tells.
    """

    method: str
    before: Plan

    def __init__(self, transaction: Transaction, query: Query) -> None:
        self.transaction = transaction
        self.query = query
        self.refused: dict[Candidate, Exception] = {}
        self.sizes: dict[Candidate, int] = {}
        self.untried: set[Candidate] = set()
        self.definitions: dict[Candidate, Sequence[str]] = {}
        self._number = 0

    @abstractmethod
    def is_measured(self, candidate: Candidate) -> bool:
        """Whether there are statistics for all keys of the candidate."""

    @abstractmethod
    def clear(self) -> None:
        """Remove the indexes of the previous attempt."""

    @abstractmethod
    def unsupported(self, candidate: Candidate) -> Exception | None:
        """Return why a candidate cannot be tried, None if it can."""

    @abstractmethod
    def make(self, candidate: Candidate, number: int) -> list[tuple[Any, ...]]:
        """Create an index; return name and size of it, and of those on its partitions."""

    def explained(self, query: Query, names: Mapping[str, Candidate]) -> Plan:
        """Return the plan of a query, with the costs that it has once these indexes are built."""
        return query.explain(self.transaction)

    def has_time(self, candidate: Candidate, *, spare: bool) -> bool:
        """Whether there is time to create a candidate; with `spare`, and for more after it."""
        return True

    def most(self, candidates: Sequence[Candidate]) -> Attempt:
        """Return the plan with the candidates in place for which there is time, the first of them.

        Time is left to try smaller sets of these. Raises Blocked and ServerError.
        """
        return self.plan(self.query, self.create(candidates, partly=True), seqscan=True)

    def size(self, candidate: Candidate) -> int | None:
        """Return the bytes of an index that was created, None if they are not known."""
        return self.sizes.get(candidate)

    def defined(self, candidate: Candidate) -> Candidate:
        """Return a candidate with its keys as the server prints them, where it tells."""
        definitions = self.definitions.get(candidate, ())
        if len(definitions) != len(candidate.keys):
            return candidate
        pairs = zip(candidate.keys, definitions, strict=True)
        keys = tuple(replace(key, definition=printed) for key, printed in pairs)
        return replace(candidate, keys=keys)

    def attempt(self, candidates: Sequence[Candidate], *, seqscan: bool = True) -> Attempt:
        """Return the plan with these candidates in place.

        Raises OutOfTime, Blocked and ServerError.
        """
        return self.plan(self.query, self.create(candidates), seqscan=seqscan)

    def alone(self, candidate: Candidate, suspicion: Suspicion) -> Attempt | None:
        """Return the plan of a query with only this predicate, None if it would show nothing."""
        return None

    def create(
        self, candidates: Sequence[Candidate], *, partly: bool = False
    ) -> dict[str, Candidate]:
        """Create the candidates; return the names that a plan may show, each with its candidate.

        With `partly`, those that there is no time for are left out, or else it raises OutOfTime.
        """
        self.clear()
        names: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate in self.refused:
                continue
            if not self.has_time(candidate, spare=partly):
                if not partly:
                    raise OutOfTime
                self.untried.add(candidate)
                continue
            self._number += 1
            made = self._make_or_refuse(candidate, self._number)
            if made:
                names |= dict.fromkeys((name for name, _ in made), candidate)
                self.sizes[candidate] = sum(int(size) for _, size in made)
        return names

    def _make_or_refuse(self, candidate: Candidate, number: int) -> list[tuple[Any, ...]]:
        """Return the rows of `make`; none if the candidate is refused. Raises as `attempt`."""
        reason = self.unsupported(candidate)
        if reason is not None:
            self.refused[candidate] = reason
            return []
        try:
            with self.transaction.savepoint(f"{PREFIX}_candidate"):
                return self.make(candidate, number)
        except ServerError as error:
            raise_unless_refused(error)
            self.refused[candidate] = _refusal(error)
            return []

    def plan(self, query: Query, names: dict[str, Candidate], *, seqscan: bool) -> Attempt:
        """Return the plan of a query; `names` are those of the indexes, with their candidates."""
        self.transaction.run(f"SET LOCAL enable_seqscan = {'on' if seqscan else 'off'}")
        plan = self.explained(query, names)
        used = tuple(dict.fromkeys(names[node.index] for node in plan.nodes if node.index in names))
        shown = {name: candidate.name for name, candidate in names.items()}
        return Attempt(plan, used, shown, cost_of_writes(query.text, plan, used))


def raise_unless_refused(error: ServerError) -> None:
    """Raise Blocked for a lock, and the error itself if the server is not there."""
    if error.reason in NO_SERVER:
        raise error
    if error.reason is SkipReason.LOCK_TIMEOUT:
        raise Blocked from error


def _refusal(error: ServerError) -> Exception:
    if error.sqlstate == _NOT_IMMUTABLE:
        return NotImmutable(str(error))
    if error.sqlstate == _LIMIT_EXCEEDED:
        return TooLong(_VALUES_TOO_LONG)
    if error.reason is SkipReason.STATEMENT_TIMEOUT:
        return Untestable(TOOK_TOO_LONG)
    return Untestable(say(_FAILED, error=error))

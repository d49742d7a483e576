"""Finds the smallest set of candidate indexes with which the planner's cost is nearly the lowest.

The planner is given all candidates at once: what it uses is the best set there is among them. Then
each index that does not pay for itself is left out, the others are made smaller, and one is taken
in place of two where that is nearly as good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from ..plan.figures import MAX_INDEX_COLUMNS, MIN_INDEX_SCAN_COST
from ..plan.tree import Plan
from .candidate import Candidate, mentions
from .shapes import is_narrow

#: If most rows pass, so that an index seems of little use, it has to save this much: what
#: dexter asks of every index (https://github.com/ankane/dexter).
MIN_SAVING_IN_DOUBT = 0.5

#: Each index of a set must save this share of the cost before by itself: without it, the statement
#: would cost that much more. Every index has to be kept up to date, whatever it saves.
MIN_MEMBER_SAVING = 0.05

#: A smaller form of an index may lose this share of the cost before. It is a share of what the
#: statement costs today: of what little is left, it would be less than costs are exact to.
TOLERANCE = 0.03

#: But with a smaller form the statement may not cost this many times what it does with the best
#: one: a further column costs little, and a look-up of one row must not become one of a hundred.
MAX_FACTOR = 1.25

#: An index that only gets wider by INCLUDE or WHERE must save this much cost as well, and one for
#: usual values may cost so much more: two random pages, by the default `random_page_cost` of 4.
MIN_WIDENING_GAIN = 8.0

#: If an index finds so many times more rows than another one for usual values, it seems as good
#: only because these values are rare, or those of no row.
MIN_USUAL_FACTOR = 10.0

#: If so many of the rows pass, it hardly matters that a LIMIT comes to those that pass by chance.
MOST_PASSING = 0.9

#: An index that other statements need as well must keep this share of the best one's saving.
MIN_SHARED_SAVING = 0.95

#: An index in place of two holds so many columns at most, one more than one for a statement. It is
#: smaller than both together: each entry has its header and the first key only once.
MAX_SHARED_COLUMNS = MAX_INDEX_COLUMNS + 1

#: How many smaller forms of one index are tried.
MAX_SIMPLER = 8


@dataclass(frozen=True)
class Attempt:
    """The plan with some candidates in place, and those that it uses.

    `names` are those that the candidates are advised under, by the names in the plan. `writes` is
    what the statement writes, as cost, which the plan's does not have.
    """

    plan: Plan
    used: tuple[Candidate, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    writes: float = 0.0

    @property
    def cost(self) -> float:
        """The cost of the whole statement, with what it writes."""
        return self.plan.total_cost + self.writes


class OutOfTime(Exception):
    """There is no time to try another set of indexes."""


#: Plans the statement with some candidates in place; raises OutOfTime.
Try = Callable[[Sequence[Candidate]], Attempt]


@dataclass(frozen=True)
class Found:
    """The attempt with the set that was chosen.

    `unproved` are those of its indexes that may not pay for themselves: time ran out before the
    statement was planned without them.
    """

    attempt: Attempt
    unproved: frozenset[Candidate] = frozenset()


def smallest_set(
    best: Attempt,
    candidates: Sequence[Candidate],
    known: Sequence[Candidate],
    attempt: Try,
    before: float,
    serves: Callable[[Candidate], bool] = lambda index: True,
    passing: Callable[[Plan], float] = lambda plan: 1.0,
) -> Found:
    """Return the smallest set that is nearly as good as all candidates, which `best` had in place.

    Each index of it pays for itself, and none is a prefix of another. If those that `serves` what
    is looked for do not, they are returned without the others.
    Of two sets that are nearly as good, the one with an index of `known` is taken: these are
    proposed or declared already. `before` is the cost without any index. `passing` is the share of
    an index that passes, where a LIMIT stops it: a smaller index does not make that less. If time
    runs out, the best set so far is returned of which each index is known to pay for itself, or
    else the smallest.
    """
    search = _Search(candidates, known, attempt, before, serves, passing)
    try:
        search.run(best)
    except OutOfTime:
        return Found(search.current, search.unproved())
    return Found(search.current)


class _Search:
    """The search for one statement. The same set is tried only once."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        known: Sequence[Candidate],
        attempt: Try,
        before: float,
        serves: Callable[[Candidate], bool],
        passing: Callable[[Plan], float],
    ) -> None:
        self._candidates = candidates
        self._known = known
        self._attempt = attempt
        self._before = before
        self._serves = serves
        self._passing = passing
        #: What an index must save by itself, in cost.
        self._least = before * MIN_MEMBER_SAVING
        self._tried: dict[frozenset[Candidate], Attempt] = {}
        self._settled = False

    def run(self, best: Attempt) -> None:
        """Search from the attempt with all candidates on; `current` is the result so far."""
        self.current = best
        self.current = self._paying(best)
        self._settled = True
        for changed in (self._narrowed, self._for_usual_values, self._merged):
            self.current = self._paying(changed(self.current))
        limit = max(self._limit(self.current), shared_limit(best.cost, self._before))
        shared = self._without_prefixes(self._with_known(self.current, limit))
        self.current = self._paying(shared)

    def unproved(self) -> frozenset[Candidate]:
        """Return the indexes of the result so far that may not pay for themselves."""
        used = self.current.used
        without = {index: self._tried.get(frozenset(_without(used, index))) for index in used}
        return frozenset(
            index
            for index, tried in without.items()
            if len(used) > 1 and (tried is None or tried.cost - self.current.cost < self._least)
        )

    def _try(self, indexes: Iterable[Candidate]) -> Attempt:
        wanted = tuple(dict.fromkeys(indexes))
        key = frozenset(wanted)
        if key not in self._tried:
            self._tried[key] = self._attempt(wanted)
        return self._tried[key]

    def _limit(self, best: Attempt) -> float:
        """Return what the statement may cost with smaller forms of the indexes in a set."""
        return best.cost + min(self._before * TOLERANCE, best.cost * (MAX_FACTOR - 1))

    def _paying(self, current: Attempt) -> Attempt:
        """Leave out each index that does not pay for itself, the one that saves least first.

        If nothing is left then that serves what is looked for, the others are left out: what they
        save is no reason for it.
        """
        while len(current.used) > 1:
            by_size = sorted(current.used, key=_size, reverse=True)
            without = [self._try(_without(current.used, index)) for index in by_size]
            spared = [tried for tried in without if tried.cost - current.cost < self._least]
            useful = [tried for tried in spared if any(map(self._serves, tried.used))]
            serving = list(filter(self._serves, current.used))
            if useful:
                current = min(useful, key=lambda tried: tried.cost)
            elif spared and len(serving) < len(current.used):
                current = self._try(serving)
            else:
                break
            if not self._settled:
                self.current = current
        return current

    def _narrowed(self, current: Attempt) -> Attempt:
        """Replace indexes by smaller forms that are nearly as good."""
        best, limit = current, self._limit(current)
        for index in sorted(current.used, key=_size, reverse=True):
            if index not in current.used:
                continue
            rest = _without(current.used, index)
            for simpler in _simpler(index, self._candidates)[:MAX_SIMPLER]:
                allowed = limit
                if _finds_the_same(index, simpler):
                    allowed = max(limit, best.cost + MIN_WIDENING_GAIN)
                tried = self._try((*rest, simpler))
                if tried.cost <= allowed and self._serves_as(current, tried, simpler):
                    current, limit = tried, max(limit, tried.cost)
                    break
        return current

    def _for_usual_values(self, current: Attempt) -> Attempt:
        """Replace indexes that find few rows for the values of this execution only."""
        limit = current.cost + MIN_WIDENING_GAIN
        for index in current.used:
            # A row that lies anywhere costs about one unit.
            rare = _usual_rows(index) > current.cost
            for other in _for_usual_values(index, self._candidates) if rare else ():
                tried = self._try((*_without(current.used, index), other))
                if tried.cost <= limit and other in tried.used:
                    current = tried
                    break
        return current

    def _merged(self, current: Attempt) -> Attempt:
        """Replace two indexes by one that begins as both do, if the second hardly adds anything."""
        for index in current.used:
            rest = _without(current.used, index)
            for other in shared_indexes(index, rest) if index in current.used else ():
                left = [kept for kept in rest if kept == other or not _begins_with(other, kept)]
                tried = self._try((*left, other))
                if tried.cost - current.cost < self._least and other in tried.used:
                    current = tried
                    break
        return self._without_prefixes(current)

    def _without_prefixes(self, current: Attempt) -> Attempt:
        """Take the better one of two indexes of which one is a prefix of the other."""
        while pair := _prefix_and_longer(current.used):
            without = [self._try(_without(current.used, index)) for index in pair]
            current = min(without, key=lambda tried: tried.cost)
        return current

    def _with_known(self, current: Attempt, limit: float) -> Attempt:
        """Replace an index by one that others need as well."""
        # Once there is an index, what costs so little more is no reason for another one.
        near = min(limit, current.cost + MIN_INDEX_SCAN_COST)
        for index in current.used:
            shared = dict.fromkeys(shared_indexes(index, self._known), limit)
            related = dict.fromkeys(related_indexes(index, self._known), near)
            for other, most in (shared | related).items():
                if other not in current.used:
                    tried = self._try((*_without(current.used, index), other))
                    if tried.cost <= most and self._serves_as(current, tried, other):
                        current = tried
                        break
        return current

    def _serves_as(self, current: Attempt, tried: Attempt, index: Candidate) -> bool:
        """Whether an index is used, and no more rows are discarded before a LIMIT has its own."""
        least = min(self._passing(current.plan), MOST_PASSING)
        return index in tried.used and self._passing(tried.plan) >= least


def shared_limit(best: float, before: float) -> float:
    """Return the cost that a statement may have with an index that others need as well.

    `best` is its cost with the index of its own, `before` that without any.
    """
    return max(best, before - (before - best) * MIN_SHARED_SAVING)


def shared_indexes(index: Candidate, known: Sequence[Candidate]) -> list[Candidate]:
    """Return the indexes that could replace an index so that fewer are needed, the best first.

    These are the known indexes that begin with its keys, and the index itself with the keys of a
    known one first, which it can replace. If it begins with those keys anyway, it is used as it is.
    Further ones hold what it and a known one do, if only INCLUDE tells them apart. The best is the
    one with which fewest others are needed.
    """
    longer, extended, united = [], [], []
    for other in known:
        ordered = _in_order_of(index, other)
        if other != index and _begins_with(other, ordered):
            longer.append(other)
        elif _begins_with(ordered, other) and _includes(ordered, other):
            extended.append(ordered)
        if (both := _united(ordered, other)) is not None:
            united.append(both)
    first = longer if index in extended else [*longer, *extended]
    shared = dict.fromkeys([*first, *united])
    spared = {
        candidate: sum(candidate == other or replaces(candidate, other) for other in known)
        for candidate in shared
    }
    return sorted(shared, key=spared.__getitem__, reverse=True)


def related_indexes(index: Candidate, known: Sequence[Candidate]) -> list[Candidate]:
    """Return the known indexes that begin as an index does, go on otherwise, and find as few rows.

    Only where all of its keys are compared by equality: no other index has its order, or ends where
    its range does.
    """
    if index.equal_keys < len(index.keys):
        return []
    return [other for other in known if _begins_alike(_in_order_of(index, other), other)]


def stand_in(index: Candidate, known: Sequence[Candidate]) -> Candidate:
    """Return the index to propose where nothing can be tried: one that others need as well, if any.

    It holds all that the index holds, in an order that serves the same, and little more.
    """
    for other in shared_indexes(index, known):
        added = [key.column for key in other.keys if key not in index.keys]
        carried = [name for name in other.include if name not in index.include]
        columns = [name for name in (*added, *carried) if name is not None]
        little = None not in added and is_narrow(index.relation, columns)
        if index.method == "btree" and little and replaces(other, index):
            return other
    return index


def _united(index: Candidate, other: Candidate) -> Candidate | None:
    """Return the index that holds what two hold, of which one has the keys of the other first.

    None if one of them holds all of it anyway, if the models declare one of them as it is, or if it
    would be a second copy of the table.
    """
    by_keys = sorted((index, other), key=lambda candidate: len(candidate.keys), reverse=True)
    longer, shorter = by_keys
    if not _begins_with(longer, shorter) or index.declared or other.declared:
        return None
    if is_prefix(shorter, longer) or is_prefix(longer, shorter):
        return None
    keys = {key.column for key in longer.keys}
    include = dict.fromkeys((*longer.include, *shorter.include))
    carried = tuple(name for name in include if name not in keys)
    held = len(longer.keys) + len(carried)
    if not is_narrow(longer.relation, carried) or not held <= MAX_SHARED_COLUMNS:
        return None
    return replace(longer, include=carried, given_name="")


def _without(used: Iterable[Candidate], left_out: Candidate) -> tuple[Candidate, ...]:
    return tuple(index for index in used if index != left_out)


def _prefix_and_longer(used: Sequence[Candidate]) -> tuple[Candidate, Candidate] | None:
    """Return an index whose keys another one begins with, and that one, None if there is none."""
    pairs = ((index, longer) for index in used for longer in used if longer != index)
    return next((pair for pair in pairs if is_prefix(*pair)), None)


def replaces(other: Candidate, index: Candidate) -> bool:
    """Whether another index holds all that an index holds, and serves the same with it."""
    return other != index and is_prefix(_in_order_of(index, other), other)


def is_prefix(index: Candidate, longer: Candidate) -> bool:
    """Whether an index holds nothing that another one does not hold in the same order."""
    return _begins_with(longer, index) and _includes(longer, index)


def _simpler(index: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that hold less than an index, the smallest first."""
    simpler = [
        candidate for candidate in candidates if candidate != index and _is_part(candidate, index)
    ]
    return sorted(simpler, key=_size)


def _for_usual_values(index: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates with further keys that find far fewer rows, the smallest first."""
    most = _usual_rows(index) / MIN_USUAL_FACTOR
    selective = [
        candidate
        for candidate in candidates
        if _is_part(index, candidate) and not candidate.include and _usual_rows(candidate) <= most
    ]
    return sorted(selective, key=_size)


def _usual_rows(index: Candidate) -> float:
    """Return how many rows have the usual values of the keys that are compared by equality."""
    relation = index.relation
    rows = relation.rows
    for key in index.keys[: index.equal_keys]:
        column = relation.column(key.column) if key.column else None
        values = column.values_in(relation.rows) if column else 1.0
        rows /= max(values, 1.0)
    return max(rows, 1.0)


def _is_part(small: Candidate, large: Candidate) -> bool:
    """Whether all that an index holds is in a larger one, as a key, by INCLUDE or by WHERE."""
    if small.relation.key != large.relation.key or small.method != large.method:
        return False
    if small.predicate not in ("", large.predicate) or _size(small) >= _size(large):
        return False
    held, wanted = ({*index.expressions, *index.included} for index in (large, small))
    if large.predicate and not small.predicate:
        # What the condition tests may be a key as well.
        return all(key in held or mentions(large.predicate, key) for key in wanted)
    left = iter(large.keys)
    return wanted <= held and (bool(large.include) or all(key in left for key in small.keys))


def _finds_the_same(large: Candidate, small: Candidate) -> bool:
    """Whether two indexes differ only in INCLUDE and WHERE."""
    return large.keys == small.keys


def _in_order_of(index: Candidate, other: Candidate) -> Candidate:
    """Return an index with those keys in the order of another one whose order does not matter."""
    positions = {key: position for position, key in enumerate(other.keys)}
    free, rest = index.keys[: index.equal_keys], index.keys[index.equal_keys :]
    ordered = sorted(free, key=lambda key: positions.get(key, len(positions)))
    return replace(index, keys=(*ordered, *rest))


def _includes(index: Candidate, other: Candidate) -> bool:
    """Whether an index holds all included columns of another one."""
    return {*other.include} <= {*index.include, *(key.column for key in index.keys)}


def _begins_with(longer: Candidate, shorter: Candidate) -> bool:
    return (
        longer.relation.key == shorter.relation.key
        and longer.method == shorter.method
        and longer.predicate == shorter.predicate
        and longer.keys[: len(shorter.keys)] == shorter.keys
    )


def _begins_alike(index: Candidate, other: Candidate) -> bool:
    """Whether two indexes begin with keys that usually find few rows, and go on otherwise."""
    pairs = zip(index.keys, other.keys, strict=False)
    alike = tuple(key for key, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if not 0 < len(alike) < min(len(index.keys), len(other.keys)):
        return False
    both = replace(index, keys=alike, include=())
    # A row that lies anywhere costs about one unit.
    return _begins_with(other, both) and _usual_rows(both) < MIN_INDEX_SCAN_COST


def _size(candidate: Candidate) -> tuple[int, int, int]:
    """Return what indexes are sorted by, the smallest first; one of all rows is before others."""
    held = len(candidate.keys) + len(candidate.include)
    return (1 if candidate.predicate else 0, held, len(candidate.include))

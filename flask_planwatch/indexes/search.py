"""Finds the smallest set of candidate indexes with which the planner's cost is nearly the lowest.

The planner is given all candidates at once: what it uses is the best set there is among them. Then
each index of the set is left out, or made smaller, if the cost stays nearly as low without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..plan.tree import Plan
from .candidate import Candidate, mentions

#: A set that saves less of a statement's cost is not worth an index: the planner's cost is not
#: exact to that degree. The default `random_page_cost` alone may be several times too high
#: (https://www.postgresql.org/docs/current/runtime-config-query.html). index_advisor reports any
#: saving, dexter wants half.
MIN_SAVING = 0.2

#: If most rows pass, so that an index seems of little use, it has to save this much: what
#: dexter asks of every index (https://github.com/ankane/dexter).
MIN_SAVING_IN_DOUBT = 0.5

#: A smaller set may cost this much more than the best one. The planner itself takes paths whose
#: costs differ by less than 1% for equal (STD_FUZZ_FACTOR).
TOLERANCE = 0.03

#: An index that only gets wider by INCLUDE or WHERE must save this much cost as well: two random
#: pages, by the default `random_page_cost` of 4.
MIN_WIDENING_GAIN = 8.0

#: An index that other statements need as well must keep this share of the best one's saving.
MIN_SHARED_SAVING = 0.95

#: How many smaller forms of one index are tried.
MAX_SIMPLER = 8


@dataclass(frozen=True)
class Attempt:
    """The plan with some candidates in place, and those that it uses.

    `names` are those that the candidates are advised under, by the names in the plan.
    """

    plan: Plan
    used: tuple[Candidate, ...]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """The cost of the whole statement."""
        return self.plan.total_cost


#: Plans the statement with some candidates in place.
Try = Callable[[Sequence[Candidate]], Attempt]


def smallest_set(
    candidates: Sequence[Candidate], known: Sequence[Candidate], attempt: Try, before: float
) -> Attempt:
    """Return the attempt with the smallest set that is nearly as good as all candidates.

    Of two sets that are nearly as good, the one with an index of `known` is taken: these are
    proposed or declared already. `before` is the cost without any index.
    """
    best = attempt((*candidates, *known))
    limit = best.cost * (1 + TOLERANCE)
    current = best
    for index in sorted(best.used, key=_size, reverse=True):
        if index not in current.used:
            continue
        rest = tuple(used for used in current.used if used != index)
        forms: list[tuple[Candidate, ...]] = [()] if rest else []
        forms += [(simpler,) for simpler in _simpler(index, candidates)[:MAX_SIMPLER]]
        for form in forms:
            allowed = limit
            if form and _finds_the_same(index, form[0]):
                allowed = max(limit, best.cost + MIN_WIDENING_GAIN)
            tried = attempt((*rest, *form))
            if tried.cost <= allowed and set(form) <= set(tried.used):
                current, limit = tried, max(limit, tried.cost)
                break
    return _with_known(current, known, max(limit, shared_limit(best.cost, before)), attempt)


def shared_limit(best: float, before: float) -> float:
    """Return the cost that a statement may have with an index that others need as well.

    `best` is its cost with the index of its own, `before` that without any.
    """
    return max(best * (1 + TOLERANCE), before - (before - best) * MIN_SHARED_SAVING)


def shared_indexes(index: Candidate, known: Iterable[Candidate]) -> list[Candidate]:
    """Return the indexes that could replace an index so that fewer are needed, the best first.

    These are the known indexes that begin with its keys. Then comes the index itself with the keys
    of a known one first, which it can replace. If it begins with those keys anyway, it is used as
    it is.
    """
    longer, extended = [], []
    for other in known:
        ordered = _in_order_of(index, other)
        if other != index and _begins_with(other, ordered):
            longer.append(other)
        elif _begins_with(ordered, other) and _includes(ordered, other):
            extended.append(ordered)
    return list(dict.fromkeys(longer if index in extended else [*longer, *extended]))


def _with_known(
    current: Attempt, known: Sequence[Candidate], limit: float, attempt: Try
) -> Attempt:
    """Replace an index by one that others need as well."""
    for index in current.used:
        for other in shared_indexes(index, known):
            if other not in current.used:
                tried = attempt((*(used for used in current.used if used != index), other))
                if tried.cost <= limit and other in tried.used:
                    current = tried
                    break
    return current


def _simpler(index: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that hold less than an index, the smallest first."""
    simpler = [
        candidate for candidate in candidates if candidate != index and _is_part(candidate, index)
    ]
    return sorted(simpler, key=_size)


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
    places = {key: place for place, key in enumerate(other.keys)}
    free, rest = index.keys[: index.equal_keys], index.keys[index.equal_keys :]
    ordered = sorted(free, key=lambda key: places.get(key, len(places)))
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


def _size(candidate: Candidate) -> tuple[int, int, int]:
    """Return what indexes are sorted by, the smallest first; one of all rows is before others."""
    held = len(candidate.keys) + len(candidate.include)
    return (1 if candidate.predicate else 0, held, len(candidate.include))

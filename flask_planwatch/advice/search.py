"""Finds the smallest set of candidate indexes with which the planner's cost is nearly the lowest.

The planner is given all candidates at once: what it uses is the best set there is among them. Then
each index of the set has to earn its place, and its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..plan.tree import Plan
from .index import Candidate, mentions

#: A set that saves less of a statement's cost is not worth an index: the planner's cost is not
#: exact to that degree. The default `random_page_cost` alone may be several times too high
#: (https://www.postgresql.org/docs/current/runtime-config-query.html). index_advisor reports any
#: saving, dexter wants half.
MIN_SAVING = 0.2

#: Where the plan alone speaks against an index, as most rows pass, it has to save this much: what
#: dexter asks of every index (https://github.com/ankane/dexter).
MIN_SAVING_IN_DOUBT = 0.5

#: A smaller set may cost this much more than the best one. The planner itself takes paths whose
#: costs differ by less than 1% for equal (STD_FUZZ_FACTOR).
TOLERANCE = 0.03

#: An index that only gets wider by INCLUDE or WHERE must save this much cost as well: two random
#: pages, by the default `random_page_cost` of 4.
MIN_WIDENING_GAIN = 8.0

#: An index that is there for another reason may keep this share of the best one's saving.
KEPT_BY_KNOWN = 0.95

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
        rest = tuple(one for one in current.used if one != index)
        forms: list[tuple[Candidate, ...]] = [()] if rest else []
        forms += [(one,) for one in _simpler(index, candidates)[:MAX_SIMPLER]]
        for form in forms:
            allowed = limit
            if form and _is_wider(index, form[0]):
                allowed = max(limit, best.cost + MIN_WIDENING_GAIN)
            tried = attempt((*rest, *form))
            if tried.cost <= allowed and set(form) <= set(tried.used):
                current, limit = tried, max(limit, tried.cost)
                break
    saved = (before - best.cost) * KEPT_BY_KNOWN
    return _with_known(current, known, max(limit, before - saved), attempt)


def _with_known(
    current: Attempt, known: Sequence[Candidate], limit: float, attempt: Try
) -> Attempt:
    """Replace an index by a known one that begins with its keys."""
    for index in current.used:
        for other in known:
            longer = other != index and _begins_with(other, index)
            if longer and other not in current.used:
                tried = attempt((*(one for one in current.used if one != index), other))
                if tried.cost <= limit and other in tried.used:
                    current = tried
                    break
    return current


def _simpler(index: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that hold less than an index, the smallest first."""
    simpler = [one for one in candidates if one != index and _is_part(one, index)]
    return sorted(simpler, key=_size)


def _is_part(small: Candidate, large: Candidate) -> bool:
    """Whether an index holds nothing but what a larger one holds in some way."""
    if small.relation.key != large.relation.key or small.method != large.method:
        return False
    if small.predicate not in ("", large.predicate) or _size(small) >= _size(large):
        return False
    held = {
        *(key.expression for key in large.keys),
        *map(large.relation.quoted_column, large.include),
    }
    wanted = {
        *(key.expression for key in small.keys),
        *map(small.relation.quoted_column, small.include),
    }
    if large.predicate and not small.predicate:
        # What the condition tests may be a key as well.
        return all(key in held or mentions(large.predicate, key) for key in wanted)
    left = iter(large.keys)
    return wanted <= held and (bool(large.include) or all(key in left for key in small.keys))


def _is_wider(large: Candidate, small: Candidate) -> bool:
    """Whether two indexes find the same rows, and one only carries or leaves out more."""
    return large.keys == small.keys


def _begins_with(longer: Candidate, shorter: Candidate) -> bool:
    return (
        longer.relation.key == shorter.relation.key
        and longer.method == shorter.method
        and longer.predicate == shorter.predicate
        and longer.keys[: len(shorter.keys)] == shorter.keys
    )


def _size(candidate: Candidate) -> tuple[int, int, int]:
    """How much an index asks of a table: whether it is special, and how much it holds."""
    held = len(candidate.keys) + len(candidate.include)
    return (1 if candidate.predicate else 0, held, len(candidate.include))

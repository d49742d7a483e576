"""The smallest set of candidates with which the cost is nearly the lowest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from flask_planwatch.indexes.candidate import Candidate
from flask_planwatch.indexes.search import (
    MAX_FACTOR,
    MAX_SIMPLER,
    MIN_MEMBER_SAVING,
    MIN_SHARED_SAVING,
    MIN_WIDENING_GAIN,
    TOLERANCE,
    Attempt,
    Found,
    OutOfTime,
    related_indexes,
    shared_indexes,
    smallest_set,
    stand_in,
)
from flask_planwatch.plan.figures import MIN_INDEX_SCAN_COST

from .data import candidate, plan_of_cost, table

STATE, TOWN, POINTS = candidate("state"), candidate("town"), candidate("points")
CODE = candidate("code")
STATE_TOWN = candidate("state", "town")
ALL_THREE = candidate("state", "town", "points")
CARRYING = candidate("state", include=("town",))
CARRYING_POINTS = candidate("state", include=("points",))
PARTIAL = candidate("points", predicate="state <> 's'")
EITHER_ORDER, TOWN_STATE = candidate("state", "town", equal_keys=2), candidate("town", "state")

#: The cost without any index.
BEFORE = 1000.0

#: What each index of a set must save, and what a smaller form may lose.
PAYS, LOSS = BEFORE * MIN_MEMBER_SAVING, BEFORE * TOLERANCE


class Planner:
    """Takes the cheapest of the plans that it knows and has the indexes for.

    After so many `questions` it has no more time.
    """

    def __init__(
        self, plans: Mapping[Sequence[Candidate], float], questions: float = math.inf
    ) -> None:
        self.plans = {(): BEFORE, **plans}
        self.asked: list[frozenset[Candidate]] = []
        self.questions = questions

    def __call__(self, candidates: Sequence[Candidate]) -> Attempt:
        if len(self.asked) >= self.questions:
            raise OutOfTime
        self.asked.append(frozenset(candidates))
        possible = [plan for plan in self.plans if set(plan) <= set(candidates)]
        best = min(possible, key=self.plans.__getitem__)
        return Attempt(plan_of_cost(self.plans[best]), tuple(best))


def choose(
    plans: Mapping[Sequence[Candidate], float],
    known: Sequence[Candidate] = (),
    tried: Sequence[Candidate] | None = None,
) -> tuple[Candidate, ...]:
    """Return the set that is chosen; all that plans use and is not known is tried."""
    if tried is None:
        tried = tuple(dict.fromkeys(one for plan in plans for one in plan if one not in known))
    planner = Planner(plans)
    found = search(planner, tried, known)
    assert found.attempt.cost == planner.plans[found.attempt.used]
    assert not found.unproved
    return found.attempt.used


def search(planner: Planner, tried: Sequence[Candidate], known: Sequence[Candidate] = ()) -> Found:
    """Return the smallest set that is found among these, after all of them were tried at once."""
    return smallest_set(planner((*tried, *known)), tried, known, planner, BEFORE)


#: Indexes on what is compared by equality, and on a range.
OF_STATE, OF_TOWN = candidate("state", equal_keys=1), candidate("town", equal_keys=1)
OF_STATE_TOWN = candidate("town", "state", equal_keys=2)
OF_STATE_POINTS = candidate("state", "points", equal_keys=1)
OF_TOWN_CODE = candidate("code", "town", equal_keys=2)
OF_TOWN_POINTS = candidate("town", "points", equal_keys=1)

#: The planner's plans, and the indexes that are chosen.
SETS = {
    # A state has 20,000 rows, a town 333, and both together have 67.
    "one of few values, where no row has this one": (
        {(OF_STATE,): 8.0, (OF_STATE_TOWN,): 8.0},
        (OF_STATE_TOWN,),
    ),
    "one of some values, which this one has": (
        {(OF_TOWN,): 400.0, (OF_TOWN_CODE,): 399.0},
        (OF_TOWN,),
    ),
    "one of many values": ({(OF_TOWN,): 8.0, (OF_STATE_TOWN,): 8.0}, (OF_TOWN,)),
    "a range that no row is in": ({(POINTS,): 8.0, (OF_TOWN_POINTS,): 8.0}, (OF_TOWN_POINTS,)),
    "a range beside few values": ({(POINTS,): 8.0, (OF_STATE_POINTS,): 8.0}, (POINTS,)),
    "one of few values that costs less": (
        {(OF_STATE,): 50.0, (OF_STATE_TOWN,): 100.0},
        (OF_STATE,),
    ),
    "none helps": ({}, ()),
    "one": ({(STATE,): 500.0}, (STATE,)),
    "the better of two": ({(STATE,): 500.0, (TOWN,): 100.0}, (TOWN,)),
    "two that help each other": (
        {(STATE,): 800.0, (TOWN,): 800.0, (STATE, TOWN): 100.0},
        (STATE, TOWN),
    ),
    "a second one that hardly helps": (
        {(STATE,): 99.9 + PAYS, (TOWN,): 800.0, (STATE, TOWN): 100.0},
        (STATE,),
    ),
    "a second one that helps": (
        {(STATE,): 100.0 + PAYS, (TOWN,): 800.0, (STATE, TOWN): 100.0},
        (STATE, TOWN),
    ),
    "what it saves is a share of the cost before": (
        {(STATE,): 49.0, (TOWN,): 800.0, (STATE, TOWN): 1.0},
        (STATE,),
    ),
    "of three, the one that hardly helps": (
        {(STATE, TOWN, POINTS): 100.0, (STATE, TOWN): 110.0, (STATE,): 300.0, (TOWN,): 300.0},
        (STATE, TOWN),
    ),
    "the one that saves least is left out first": (
        {
            (STATE, TOWN, POINTS): 100.0,
            (STATE, TOWN): 140.0,
            (STATE, POINTS): 110.0,
            (STATE,): 200.0,
        },
        (STATE, POINTS),
    ),
    "two of which neither pays without a third": (
        {(STATE, TOWN, POINTS): 400.0, (STATE, TOWN): 440.0, (STATE,): 450.0},
        (STATE,),
    ),
    "the best of several that save too little": (
        {(STATE, TOWN): 960.0, (STATE,): 980.0, (TOWN,): 990.0},
        (STATE,),
    ),
    "one of fewer columns, within the tolerance": (
        {(STATE,): 500.0 + LOSS, (STATE_TOWN,): 500.0},
        (STATE,),
    ),
    "one of fewer columns, beyond the tolerance": (
        {(STATE,): 500.1 + LOSS, (STATE_TOWN,): 500.0},
        (STATE_TOWN,),
    ),
    "one of fewer columns, for a fraction of what is left": (
        {(STATE,): 20.0 * MAX_FACTOR, (STATE_TOWN,): 20.0},
        (STATE,),
    ),
    "one of fewer columns, for more than that": (
        {(STATE,): 20.1 * MAX_FACTOR, (STATE_TOWN,): 20.0},
        (STATE_TOWN,),
    ),
    "the smallest of three": (
        {(ALL_THREE,): 100.0, (STATE_TOWN,): 100.5, (STATE,): 101.0},
        (STATE,),
    ),
    "the middle one of three": (
        {(STATE,): 200.0, (STATE_TOWN,): 100.5, (ALL_THREE,): 100.0},
        (STATE_TOWN,),
    ),
    "the end of an index": ({(TOWN,): 100.0, (STATE_TOWN,): 100.0}, (TOWN,)),
    "a wider one for a small gain": (
        {(STATE,): 20.0 + MIN_WIDENING_GAIN, (CARRYING,): 20.0},
        (STATE,),
    ),
    "a wider one for its gain": (
        {(STATE,): 20.1 + MIN_WIDENING_GAIN, (CARRYING,): 20.0},
        (CARRYING,),
    ),
    "a further key needs no such gain": (
        {(STATE,): 15.0, (STATE_TOWN,): 10.0},
        (STATE_TOWN,),
    ),
    "a condition for a small gain": (
        {(POINTS,): 20.0 + MIN_WIDENING_GAIN, (PARTIAL,): 20.0},
        (POINTS,),
    ),
    "a condition for its gain": (
        {(POINTS,): 20.1 + MIN_WIDENING_GAIN, (PARTIAL,): 20.0},
        (PARTIAL,),
    ),
    "the smaller of two that serve alike": (
        {(STATE_TOWN, POINTS): 100.0, (POINTS,): 101.0, (STATE_TOWN,): 101.0},
        (POINTS,),
    ),
    "one less once another was made smaller": (
        {(CARRYING, TOWN): 20.0, (STATE, TOWN): 27.0, (STATE,): 27.0},
        (STATE,),
    ),
    "not an index and its prefix": (
        {(STATE, STATE_TOWN): 100.0, (STATE_TOWN,): 300.0, (STATE,): 400.0},
        (STATE_TOWN,),
    ),
    "the prefix, if that is the better one": (
        {(STATE, STATE_TOWN): 100.0, (STATE_TOWN,): 400.0, (STATE,): 300.0},
        (STATE,),
    ),
    "not an index and what carries more": (
        {(STATE, CARRYING): 100.0, (CARRYING,): 300.0, (STATE,): 400.0},
        (CARRYING,),
    ),
    "two that carry different columns": (
        {(CARRYING, CARRYING_POINTS): 100.0, (CARRYING,): 400.0, (CARRYING_POINTS,): 400.0},
        (CARRYING, CARRYING_POINTS),
    ),
    "two of which one has a condition": (
        {(PARTIAL, POINTS): 100.0, (PARTIAL,): 300.0, (POINTS,): 300.0},
        (PARTIAL, POINTS),
    ),
    "one whose order does not matter in the place of two": (
        {
            (EITHER_ORDER, TOWN): 100.0,
            (EITHER_ORDER,): 300.0,
            (TOWN,): 300.0,
            (TOWN_STATE,): 99.9 + PAYS,
        },
        (TOWN_STATE,),
    ),
    "two where the one would lose too much": (
        {
            (EITHER_ORDER, TOWN): 100.0,
            (EITHER_ORDER,): 300.0,
            (TOWN,): 300.0,
            (TOWN_STATE,): 100.0 + PAYS,
        },
        (EITHER_ORDER, TOWN),
    ),
    "not the one column that an index carries": (
        {(candidate("town"),): 100.0, (CARRYING,): 100.0},
        (TOWN,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_the_smallest_set_that_is_nearly_as_good(name):
    plans, wanted = SETS[name]
    assert choose(plans) == wanted


def test_what_others_save_is_no_reason_for_one_that_serves_what_is_looked_for():
    planner = Planner({(STATE, POINTS): 500.0, (POINTS,): 500.0 + PAYS / 2, (STATE,): 900.0})
    tried = (STATE, POINTS)
    found = smallest_set(planner(tried), tried, (), planner, BEFORE, lambda index: index == STATE)
    assert found.attempt.used == (STATE,)
    assert search(planner, tried).attempt.used == (POINTS,)


def test_of_two_that_save_the_same_the_one_that_serves_what_is_looked_for_stays():
    planner = Planner({(STATE, POINTS): 500.0, (POINTS,): 501.0, (STATE,): 502.0})
    tried = (STATE, POINTS)
    found = smallest_set(planner(tried), tried, (), planner, BEFORE, lambda index: index == STATE)
    assert found.attempt.used == (STATE,)


def test_two_that_serve_only_together_stay():
    planner = Planner({(STATE, POINTS): BEFORE - PAYS / 2})
    assert search(planner, (STATE, POINTS)).attempt.used == (STATE, POINTS)


#: An index, and one that is no part of it.
NO_PART = {
    "another column": (STATE_TOWN, POINTS),
    "another order": (ALL_THREE, candidate("town", "state")),
    "another table": (STATE_TOWN, candidate("state", relation=table(name="other"))),
    "another method": (STATE_TOWN, candidate("state", method="hash")),
    "another condition": (
        candidate("points", "town", predicate="state <> 's'"),
        candidate("points", predicate="state <> 't'"),
    ),
    "a condition of its own": (STATE_TOWN, candidate("state", predicate="town <> 's'")),
    "as many columns": (CARRYING, candidate("state", include=("points",))),
}


@pytest.mark.parametrize("name", NO_PART)
def test_is_not_tried_in_the_place_of_an_index(name):
    index, other = NO_PART[name]
    planner = Planner({(index,): 100.0})
    search(planner, (index, other))
    assert frozenset({other}) not in planner.asked


#: An index and one that holds a part of it.
PARTS = {
    "the first column": (ALL_THREE, STATE),
    "the last column": (ALL_THREE, POINTS),
    "the first and the last": (ALL_THREE, candidate("state", "points")),
    "without what it carries": (CARRYING, STATE),
    "what is carried as a key": (candidate("state", include=("town", "points")), STATE_TOWN),
    "without its condition": (PARTIAL, POINTS),
    "a column of its condition as a key": (
        candidate("points", "town", predicate="state <> 's'"),
        STATE,
    ),
    "with its condition": (
        candidate("points", "town", predicate="state <> 's'"),
        PARTIAL,
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_tried_in_the_place_of_an_index(name):
    index, part = PARTS[name]
    assert choose({(index,): 100.0, (part,): 100.0}) == (part,)


def test_a_part_that_the_planner_leaves_aside_is_not_taken():
    """Another index of the set does without it, so it is left out altogether."""
    plans = {(TOWN, ALL_THREE): 100.0, (TOWN,): 102.0}
    assert choose(plans, tried=(TOWN, ALL_THREE, STATE)) == (TOWN,)


def test_no_part_is_taken_for_what_the_planner_does_without_any():
    plans = {(): 102.0, (ALL_THREE,): 100.0}
    assert choose(plans, tried=(ALL_THREE, STATE)) == (ALL_THREE,)


def test_few_smaller_forms_are_tried():
    relation = table()
    names = [column.name for column in relation.columns]
    whole = candidate(*names)
    parts = [candidate(*names[:size]) for size in range(1, len(names))]
    parts += [candidate(*names[start:]) for start in range(1, len(names))]
    planner = Planner({(whole,): 100.0})
    search(planner, (whole, *parts))
    assert len(planner.asked) == 1 + MAX_SIMPLER


#: Of three that are used, `code` hardly helps. After so many attempts, all at once included: the
#: set, and those of it that may not pay for themselves.
OUT_OF_TIME = {
    1: ({STATE_TOWN, POINTS, CODE}, {STATE_TOWN, POINTS, CODE}),
    2: ({STATE_TOWN, POINTS, CODE}, {POINTS, CODE}),
    3: ({STATE_TOWN, POINTS, CODE}, {CODE}),
    # Both were needed beside `code`; that says little of what each saves beside the other.
    4: ({STATE_TOWN, POINTS}, {STATE_TOWN, POINTS}),
    5: ({STATE_TOWN, POINTS}, {POINTS}),
    6: ({STATE_TOWN, POINTS}, set()),
    # A smaller form serves as well, but it is not known whether both are needed then.
    7: ({STATE_TOWN, POINTS}, set()),
    8: ({STATE, POINTS}, set()),
}


@pytest.mark.parametrize("questions", OUT_OF_TIME)
def test_what_is_known_when_time_runs_out(questions):
    plans = {
        (STATE_TOWN, POINTS, CODE): 400.0,
        (STATE_TOWN, POINTS): 410.0,
        (STATE, POINTS): 411.0,
        (STATE_TOWN,): 700.0,
        (STATE,): 701.0,
        (POINTS,): 600.0,
        (POINTS, CODE): 590.0,
        (STATE_TOWN, CODE): 690.0,
    }
    found = search(Planner(plans, questions), (STATE_TOWN, POINTS, CODE, STATE))
    wanted, unproved = OUT_OF_TIME[questions]
    assert (set(found.attempt.used), set(found.unproved)) == (wanted, unproved)


def test_a_single_index_is_proved_by_the_plan_without_any():
    found = search(Planner({(STATE_TOWN,): 100.0, (STATE,): 100.0}, 1), (STATE_TOWN, STATE))
    assert found == Found(found.attempt)
    assert found.attempt.used == (STATE_TOWN,)


#: Costs with an index of the statement's own, and with a longer one that is there anyway.
KNOWN = {
    "as good": (100.0, 100.0, True),
    "nearly as good": (100.0, BEFORE - (BEFORE - 100.0) * MIN_SHARED_SAVING, True),
    "not as good": (100.0, BEFORE - (BEFORE - 100.0) * MIN_SHARED_SAVING + 1, False),
    "useless": (100.0, BEFORE, False),
}


@pytest.mark.parametrize("name", KNOWN)
def test_an_index_that_is_there_for_another_reason(name):
    own, with_known, taken = KNOWN[name]
    plans = {(STATE,): own, (STATE_TOWN,): with_known}
    assert choose(plans, known=(STATE_TOWN,)) == ((STATE_TOWN,) if taken else (STATE,))


#: Costs with an index that carries a column, and with one that carries that of a known one as well.
CARRIED = {
    "as good": (101.0, True),
    "not as good": (BEFORE - (BEFORE - 100.0) * MIN_SHARED_SAVING + 1, False),
}


@pytest.mark.parametrize("name", CARRIED)
def test_an_index_that_carries_what_another_one_does(name):
    with_both, taken = CARRIED[name]
    both = candidate("state", include=("town", "points"))
    plans = {(CARRYING,): 100.0, (CARRYING_POINTS,): 900.0, (both,): with_both}
    assert choose(plans, known=(CARRYING_POINTS,)) == ((both,) if taken else (CARRYING,))


def test_the_known_index_with_which_fewest_are_needed():
    longer = candidate("state", "town", "points")
    plans = {(STATE,): 100.0, (STATE_TOWN,): 100.0, (longer,): 102.0}
    assert choose(plans, known=(STATE_TOWN, longer)) == (longer,)


#: What is known, and that it does not stand for an index on `state`.
UNLIKE = {
    "ends with the key": candidate("town", "state"),
    "has a condition": candidate("state", "town", predicate="points > 5"),
    "is of another method": candidate("state", "town", method="gist"),
    "is on another table": candidate("state", "town", relation=table(name="other")),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_a_known_index_that_is_another(name):
    other = UNLIKE[name]
    assert choose({(STATE,): 100.0, (other,): 101.0}, known=(other,)) == (STATE,)


def test_a_known_index_may_be_the_best_by_itself():
    for known in (STATE_TOWN, candidate("town", "points")):
        assert choose({(STATE,): 500.0, (known,): 100.0}, known=(known,)) == (known,)


def equal(*keys: str, count: int) -> Candidate:
    """Return an index whose first keys are compared by equality."""
    return candidate(*keys, equal_keys=count)


#: An index, what is known, and what may stand for it, the best first; not the index itself.
SHARED = {
    "the same": (STATE_TOWN, [STATE_TOWN], []),
    "a longer one": (STATE, [STATE_TOWN], [STATE_TOWN]),
    "a longer one after the same": (STATE, [STATE, STATE_TOWN], [STATE_TOWN]),
    "a shorter one": (STATE_TOWN, [STATE], []),
    "another first column": (STATE_TOWN, [TOWN], []),
    "another order": (STATE_TOWN, [candidate("town", "state")], []),
    "a free order": (
        equal("state", "town", count=2),
        [candidate("town", "state")],
        [candidate("town", "state")],
    ),
    "a free first column": (
        equal("state", "town", count=2),
        [TOWN],
        [candidate("town", "state")],
    ),
    "a longer one in a free order": (
        equal("state", "town", "id", count=2),
        [candidate("town", "state", "id", "points")],
        [candidate("town", "state", "id", "points")],
    ),
    "the order that the rows need": (
        equal("state", "town", "id", count=2),
        [candidate("id", "town"), candidate("town", "id")],
        [],
    ),
    "one that begins as another one does": (
        equal("state", "town", count=2),
        [TOWN, STATE],
        [],
    ),
    "known before what extends a known one": (
        equal("state", "town", count=2),
        [TOWN, candidate("state", "town", "points")],
        [candidate("state", "town", "points"), candidate("town", "state")],
    ),
    "what it does not carry": (
        STATE_TOWN,
        [CARRYING_POINTS],
        [candidate("state", "town", include=("points",))],
    ),
    "what neither carries of the other": (
        CARRYING,
        [CARRYING_POINTS],
        [CARRYING_POINTS, candidate("state", include=("town", "points"))],
    ),
    "a longer one that does not carry it": (
        CARRYING_POINTS,
        [STATE_TOWN],
        [STATE_TOWN, candidate("state", "town", include=("points",))],
    ),
    "what it carries already": (
        candidate("state", include=("town", "points")),
        [CARRYING],
        [CARRYING],
    ),
    "what would be a second copy of the table": (
        candidate("state", include=("points", "at")),
        [candidate("state", include=("town", "id"))],
        [candidate("state", include=("town", "id"))],
    ),
    "what another condition carries": (
        CARRYING,
        [candidate("state", include=("points",), predicate="done")],
        [],
    ),
    "what it carries as a key": (
        equal("state", "town", count=2),
        [candidate("town", include=("state",))],
        [candidate("town", "state")],
    ),
    "a condition": (STATE_TOWN, [candidate("state", predicate="points > 5")], []),
    "another table": (STATE_TOWN, [candidate("state", relation=table(name="other"))], []),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_may_stand_for_an_index(name):
    index, known, shared = SHARED[name]
    assert shared_indexes(index, known) == shared


#: An index, a known one, and whether that finds about as few rows: two have the same points, and
#: 333 live in the same town.
RELATED = {
    "another second column": (equal("points", "state", count=2), ("points", "town"), True),
    "a free first column": (equal("state", "points", count=2), ("points", "town"), True),
    "more columns": (equal("points", "state", "town", count=3), ("points", "state", "at"), True),
    "an order": (equal("points", "at", count=1), ("points", "town"), False),
    "many rows": (equal("town", "state", count=2), ("town", "points"), False),
    "another first column": (equal("points", "state", count=2), ("town", "points"), False),
    "a shorter one": (equal("points", "state", count=2), ("points",), False),
    "a longer one": (equal("points", count=1), ("points", "state"), False),
}


@pytest.mark.parametrize("name", RELATED)
def test_a_known_index_that_finds_as_few_rows(name):
    index, keys, related = RELATED[name]
    known = candidate(*keys)
    assert related_indexes(index, [known]) == [known] * related
    other = replace(known, predicate="done")
    assert related_indexes(index, [other]) == []


#: The costs with an index of its own and with one that finds about as few rows, and whether that is
#: taken.
NEARLY = {
    "nearly as good": (10.0, 40.0, True),
    "worth an index of its own": (10.0, 10.0 + MIN_INDEX_SCAN_COST * 1.1, False),
    "much of what is saved": (900.0, 940.0, False),
}


@pytest.mark.parametrize("name", NEARLY)
def test_a_known_index_takes_the_place_of_one_that_finds_as_few_rows(name):
    own, nearly, taken = NEARLY[name]
    index, known = equal("points", "state", count=2), candidate("points", "town")
    # So much that 5% of it are more than an index is worth.
    before = BEFORE * 10 if own < MIN_INDEX_SCAN_COST else BEFORE
    planner = Planner({(): before, (index,): own, (known,): nearly})
    found = smallest_set(planner((index, known)), (index,), (known,), planner, before)
    assert found.attempt.used == ((known,) if taken else (index,))


#: An index that cannot be tried, what is known, and what is proposed for it.
STAND_IN = {
    "nothing is known": (STATE, [], STATE),
    "a longer one": (STATE, [STATE_TOWN], STATE_TOWN),
    "one that carries more": (STATE, [CARRYING], CARRYING),
    "a shorter one": (STATE_TOWN, [STATE], STATE_TOWN),
    "one that lacks what it carries": (
        CARRYING,
        [candidate("state", "points")],
        candidate("state", "points", include=("town",)),
    ),
    "one that carries it as a key": (CARRYING, [STATE_TOWN], STATE_TOWN),
    "both hold the other's": (
        CARRYING,
        [CARRYING_POINTS],
        candidate("state", include=("town", "points")),
    ),
    "a free order": (equal("state", "town", count=2), [TOWN], TOWN_STATE),
    "another condition": (STATE, [candidate("state", "town", predicate="done")], STATE),
    "a wide one": (STATE, [candidate("state", "code")], STATE),
    "an expression more": (STATE, [candidate("state", "lower(town)")], STATE),
    "another method": (
        candidate("state", method="gin"),
        [candidate("state", "town", method="gin")],
        candidate("state", method="gin"),
    ),
}


@pytest.mark.parametrize("name", STAND_IN)
def test_what_is_proposed_where_nothing_can_be_tried(name):
    index, known, wanted = STAND_IN[name]
    assert stand_in(index, known) == wanted

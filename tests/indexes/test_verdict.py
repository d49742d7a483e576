"""What the plans with and without an index prove."""

from __future__ import annotations

import pytest

from flask_planwatch.finding import VerdictStatus
from flask_planwatch.indexes.search import Attempt
from flask_planwatch.indexes.verdict import (
    Declined,
    Trial,
    full_cost,
    saving,
    spares_sort_and_table,
    too_little,
    verdict_on_one,
    verified,
)
from flask_planwatch.plan.evidence import Hit
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import missing_index

from .data import candidate, table

TOWN = candidate("town")

FILTER = "(d.town = 't'::text)"


def plan(cost, *, kind="Seq Scan", index=None, order=None, **conditions) -> Plan:
    """Return a plan that reads the table `deed`, and perhaps sorts it."""
    node = {
        "Node Type": kind,
        "Schema": "public",
        "Relation Name": "deed",
        "Alias": "d",
        "Index Name": index,
        "Total Cost": cost,
        "Plan Rows": 10,
        "Output": ["id", "town", "at"],
        **{key.replace("_", " ").title(): value for key, value in conditions.items()},
    }
    if order:
        node = {"Node Type": "Sort", "Total Cost": cost, "Sort Key": [order], "Plans": [node]}
    return Plan.from_json({"Plan": node})


BEFORE = plan(1000.0, filter=FILTER)
INDEXED = plan(10.0, kind="Index Scan", index="trial_0", index_cond=FILTER)
#: The whole index is read, and each row is tested.
TESTED = plan(900.0, kind="Index Scan", index="trial_0", filter=FILTER)
SCHEMA = Schema({"public.deed": table()})
(SUSPICION,) = missing_index.suspect(BEFORE, SCHEMA)

UNUSED = Attempt(BEFORE, ())
USED = Attempt(INDEXED, (TOWN,), {"trial_0": "ix_deed_town"})


def trial(attempt=UNUSED, forced=UNUSED, *, measured=True, alone=None) -> Trial:
    return Trial("hypopg", attempt, forced, measured, alone)


#: What the planner did with an index, and what that proves: on a small table, and on others.
VERDICTS = {
    "used": (trial(USED, USED), "verified", "declined"),
    "used once forced": (trial(UNUSED, USED), "verified", "declined"),
    "used once forced, as a guess": (
        trial(UNUSED, USED, measured=False),
        "verified",
        "untested",
    ),
    "used by choice only, as a guess": (trial(USED, measured=False), "untested", "untested"),
    "used by choice only": (trial(USED), "declined", "declined"),
    "used for the predicate alone": (trial(alone=USED), "untested", "untested"),
    "left aside for the predicate alone": (trial(alone=UNUSED), "rejected", "rejected"),
    "never used": (trial(), "rejected", "rejected"),
    "never used, as a guess": (trial(measured=False), "rejected", "rejected"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("cost", "full"), [(10.0, 1000.0), (200.0, 1000.0), (201.0, 201.0), (900.0, 900.0)]
)
def test_a_limit_may_have_to_read_all_unless_it_expects_to_read_much(cost, full):
    (suspicion,) = missing_index.suspect(limited := _limited(cost), SCHEMA)
    hit = Hit(suspicion, "", what="", why="")
    assert full_cost(limited, [hit]) == full
    assert full_cost(BEFORE, [hit]) == 1000.0, "nothing stops this one"


def _limited(cost) -> Plan:
    """Return a plan whose LIMIT stops the scan that costs 1000."""
    scan = BEFORE.document["Plan"]
    return Plan.from_json({"Node Type": "Limit", "Total Cost": cost, "Plans": [scan]})


@pytest.mark.parametrize("name", VERDICTS)
def test_what_a_trial_of_one_index_proves(name):
    made, on_small, on_others = VERDICTS[name]
    for small, wanted in ((True, on_small), (False, on_others)):
        answer = verdict_on_one(made, SUSPICION, small=small)
        status = "declined" if isinstance(answer, Declined) else str(answer.status)
        assert status == wanted, (small, answer)


def test_an_index_that_is_only_walked_proves_nothing_where_the_rows_are_sorted():
    sorted_plan = plan(900.0, kind="Index Scan", index="t", filter=FILTER, order="d.at")
    walked = Attempt(sorted_plan, (TOWN,))
    answer = verdict_on_one(trial(walked, walked), SUSPICION, small=True)
    assert answer.status is VerdictStatus.REJECTED


def test_an_order_is_proved_by_the_sort_that_is_gone():
    before = plan(1000.0, order="d.at")
    schema = Schema({"public.deed": table()})
    (suspicion,) = missing_index.suspect(before, schema)
    after = plan(5.0, kind="Index Scan", index="trial_0")
    attempt = Attempt(after, (candidate("at"),), {"trial_0": "ix_deed_at"})
    verdict = verified(suspicion, before, attempt, method="build", guess=False)
    assert verdict.proof == (
        "the rows come from the index in the order that is asked for, without a Sort",
        "Seq Scan on deed became Index Scan using ix_deed_at on deed",
    )


def test_says_what_changed_in_the_plan():
    verdict = verified(SUSPICION, BEFORE, USED, method="build", guess=True)
    assert (verdict.status, verdict.method, verdict.guess) == (
        VerdictStatus.VERIFIED,
        "build",
        True,
    )
    assert (verdict.cost_before, verdict.cost_after) == (1000.0, 10.0)
    assert verdict.reason == "the planner used the index"
    assert "town" in verdict.proof[0]
    assert "index condition" in verdict.proof[0]
    assert verdict.proof[1].endswith("became Index Scan using ix_deed_town on deed")
    assert "trial" not in str(verdict.proof)


def test_says_that_several_indexes_belong_together():
    both = Attempt(INDEXED, (TOWN, candidate("at")))
    verdict = verified(SUSPICION, BEFORE, both, method="build", guess=False)
    assert verdict.reason == "the planner used ix_deed_town and ix_deed_at"


def test_an_index_that_only_tests_what_it_reads_is_no_condition():
    walked = Attempt(TESTED, (TOWN,))
    verdict = verified(SUSPICION, BEFORE, walked, method="build", guess=False)
    assert not [line for line in verdict.proof if "condition" in line]


#: Costs before and after, the share that is asked for, and the reason.
TOO_LITTLE = {
    (1000.0, 900.0, 0.2): "it lowers the cost of the statement by 10%, less than 20%",
    (1000.0, 600.0, 0.5): "it lowers the cost of the statement by 40%, less than 50%",
    (100.0, 50.0, 0.2): "it lowers the cost of the statement by only 50",
    (1000.0, 1000.0, 0.2): "it lowers the cost of the statement by 0%, less than 20%",
}


@pytest.mark.parametrize("costs", TOO_LITTLE, ids=str)
def test_says_why_an_index_is_rejected(costs):
    before, after, wanted = costs
    verdict = too_little(before, after, wanted, method="build", guess=False)
    assert verdict.status is VerdictStatus.REJECTED
    assert verdict.reason == TOO_LITTLE[costs]
    assert (verdict.cost_before, verdict.cost_after) == (before, after)


def test_a_guess_rejects_nothing():
    verdict = too_little(1000.0, 900.0, 0.2, method="hypopg", guess=True)
    assert verdict.status is VerdictStatus.UNTESTED
    assert "as far as the planner can guess" in verdict.reason
    assert (verdict.cost_before, verdict.cost_after) == (None, None)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [(100.0, 80.0, 0.2), (100.0, 100.0, 0.0), (100.0, 150.0, -0.5), (0.0, 0.0, 0.0)],
)
def test_the_share_that_is_saved(before, after, share):
    assert saving(before, after) == pytest.approx(share)


FROM_INDEX = plan(600.0, kind="Index Only Scan", index="trial_0", index_cond=FILTER)

#: A plan before and after, and whether an index alone has the order.
IN_ORDER = {
    "the index alone": (plan(1000.0, filter=FILTER, order="d.at"), FROM_INDEX, True),
    "each row of the table": (plan(1000.0, filter=FILTER, order="d.at"), INDEXED, False),
    "still sorted": (
        plan(1000.0, filter=FILTER, order="d.at"),
        plan(600.0, kind="Index Only Scan", index="trial_0", order="d.at"),
        False,
    ),
    "never sorted": (BEFORE, FROM_INDEX, False),
    "nothing is read": (plan(1000.0, filter=FILTER, order="d.at"), plan(1.0, alias="o"), False),
}


@pytest.mark.parametrize("name", IN_ORDER)
def test_spares_sort_and_table(name):
    before, after, spares = IN_ORDER[name]
    assert spares_sort_and_table(before, after, Hit(SUSPICION, "", what="", why="")) is spares

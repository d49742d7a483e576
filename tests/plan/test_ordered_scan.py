"""Which walks of an index a plan shows, on plans made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flask_planwatch.plan.evidence import Evidence, Hit, Timings
from flask_planwatch.plan.ordered_scan import hidden_look_ups, ordered_scans
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules.limit_trap import judge, suspect

from ..indexes.data import index, table

DEED = table(
    indexes=[
        index("deed_pkey", "id", unique=True),
        index("deed_at", "at"),
        index("deed_state_at", "state", "at"),
        index("deed_ranges", "points", method="gist"),
    ]
)


def step(kind: str, *children: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a step of a plan; it costs 5000, and delivers 1000 rows."""
    node = {"Node Type": kind, "Startup Cost": 0.0, "Total Cost": 5000.0, "Plan Rows": 1000.0}
    return node | {"Plans": list(children)} | {key.replace("_", " "): fields[key] for key in fields}


def scan(name: str = "deed_pkey", *, kind: str = "Index Scan", **fields: Any) -> dict[str, Any]:
    """Return a scan of the table `deed`, which has 100 000 rows, by an index."""
    made = step(kind, Schema="public", Alias="d", **fields)
    return made | {"Relation Name": "deed", "Index Name": name}


def limited(child: dict[str, Any], **fields: Any) -> tuple[Plan, Schema]:
    """Return the plan of a LIMIT 10, for which one row in a hundred is read."""
    limit = step("Limit", child) | {"Total Cost": 50.0, "Plan Rows": 10.0} | fields
    return Plan.from_json({"Plan": limit}), Schema({DEED.key: DEED})


FILTER = "(d.town = 't'::text)"
OTHER = step("Index Scan", Alias="o")

#: A step below the LIMIT, and the order in which the rows come.
WALKED = {
    "a filter": (scan(Filter=FILTER), ("id",)),
    "an index alone": (scan(kind="Index Only Scan", Filter=FILTER), ("id",)),
    "behind a row": (scan(Filter=FILTER, Index_Cond="(d.id > 7)"), ("id",)),
    "of one value": (
        scan("deed_state_at", Filter=FILTER, Index_Cond="(d.state = 's'::text)"),
        ("at",),
    ),
    "locked": (step("LockRows", scan(Filter=FILTER)), ("id",)),
    "a longer order": (
        step(
            "Incremental Sort",
            scan("deed_at", Filter=FILTER),
            Sort_Key=["d.at DESC", "d.id DESC"],
        ),
        ("at", "id"),
    ),
    "an order that goes both ways": (
        step("Incremental Sort", scan("deed_at", Filter=FILTER), Sort_Key=["d.at", "d.id DESC"]),
        ("at",),
    ),
    "a join": (step("Nested Loop", scan(), OTHER), ("id",)),
    "EXISTS": (step("Merge Join", scan(), OTHER, Join_Type="Semi"), ("id",)),
    "workers": (step("Gather Merge", scan(Filter=FILTER)), ("id",)),
    "a partition": (step("Append", scan(Filter=FILTER)), ("id",)),
}  # fmt: skip


@pytest.mark.parametrize("name", WALKED)
def test_walks(name):
    child, order = WALKED[name]
    (ordered,) = ordered_scans(*limited(child))
    assert ordered.order == order
    assert (ordered.entries, ordered.share) == (100_000, pytest.approx(0.01))


NO_ORDERED_SCAN = {
    "nothing is thrown away": scan(),
    "the index has no order": scan("deed_ranges", Filter=FILTER),
    "an index that is not known": scan("gone", Filter=FILTER),
    "a table that is not known": scan(Filter=FILTER) | {"Relation Name": "gone"},
    "only one entry": scan(Filter=FILTER, Index_Cond="(d.id = 7)"),
    "a sort": step("Sort", scan(Filter=FILTER), Sort_Key=["d.at"]),
    "a hash join": step("Hash Join", scan(Filter=FILTER), OTHER),
    "a whole table": scan(kind="Seq Scan", Filter=FILTER),
    "rows that are counted": step("Aggregate", scan(Filter=FILTER)),
    "no row": step("Result"),
    "a join of nothing": step("Nested Loop"),
    "a table beside a partition": step("Append", scan(Filter=FILTER), OTHER),
}


@pytest.mark.parametrize("name", NO_ORDERED_SCAN)
def test_no_walk(name):
    assert ordered_scans(*limited(NO_ORDERED_SCAN[name])) == []


def looked_up(scanned: dict[str, Any]) -> dict[str, Any]:
    """Return a join that looks a row up for each of 100 000, at a cost of 0.05 each."""
    outer = scan() | {"Parent Relationship": "Outer", "Total Cost": 1000.0, "Plan Rows": 100_000.0}
    inner = scanned | {"Parent Relationship": "Inner"}
    return step("Nested Loop", outer, inner) | {"Total Cost": 6000.0}


LOOKED_UP = scan()

#: The inner side of a join, and the runs and the hidden cost of a hundredth of the look-ups: they
#: read 750 of 1500 pages, of which the plan has 50.
LOOK_UPS = {
    "an index scan": (LOOKED_UP, [(1000, 3000 - 50)]),
    "of which some are remembered": (step("Memoize", LOOKED_UP), [(1000, 3000 - 50)]),
    "Memoize of nothing": (step("Memoize"), []),
    "without the table": (scan(kind="Index Only Scan"), []),
    "a table that is not known": (LOOKED_UP | {"Relation Name": "gone"}, []),
}


@pytest.mark.parametrize("name", LOOK_UPS)
def test_what_a_plan_hides_of_look_ups(name):
    scanned, expected = LOOK_UPS[name]
    plan, _ = limited(looked_up(scanned), **{"Total Cost": 60.0})
    schema = Schema({DEED.key: replace(DEED, pages=1500)})
    found = hidden_look_ups(plan, schema)
    assert [(look_ups.runs, look_ups.hidden_cost) for look_ups in found] == expected


def test_a_limit_without_anything_below():
    assert ordered_scans(Plan.from_json({"Plan": step("Limit")}), Schema()) == []


@pytest.mark.parametrize("garbage", ["'", "((", "d.", "AND", "(d.town ->> )", ""])
def test_garbage_is_no_error(garbage):
    plan, schema = limited(scan(Filter=garbage, Index_Cond=garbage))
    assert len(ordered_scans(plan, schema)) == 1
    for suspicion in suspect(plan, schema):
        judged(plan, schema, 50.0)
        assert suspicion.rule == "limit-trap"


def test_costs_of_nothing():
    plan, schema = limited(scan(Filter=FILTER) | {"Total Cost": 0, "Plan Rows": 0})
    (ordered,) = ordered_scans(plan, schema)
    assert (ordered.share, ordered.passing) == (1.0, 0.0)


def judged(plan: Plan, schema: Schema, *times: float, way: float = 1.0, **known: Any):
    """Return what the rule says after executions that took so many ms, one after the other."""
    (suspicion,) = suspect(plan, schema)
    evidence = Evidence(
        plan=plan,
        schema=schema,
        statement="",
        min_rows=1000,
        growth=False,
        duration_ms=times[-1],
        returned_rows=10,
        timings=Timings(times, way, 0.025),
        **known,
    )
    return judge(suspicion, evidence)


#: Executions in ms, at a cost of 50 for which 1.25 ms are normal and of 5000 for the whole walk,
#: and whether they confirm the suspicion.
TIMES = {
    "normal": ([2.0, 2.0, 2.0], False),
    "one hiccup at first": ([14.0], False),
    "a single long one": ([25.0], True),
    "two": ([12.0, 12.0], False),
    "always": ([12.0, 12.0, 12.0], True),
    "a hiccup among others": ([2.0] * 9 + [60.0], False),
    "now and then, with other values": ([2.0] * 7 + [12.0] * 3, True),
    "with these values it is quick": ([12.0] * 9 + [2.0], False),
    "a long way to the server": ([16.0, 16.0, 16.0, 16.0], False),
}


@pytest.mark.parametrize("name", TIMES)
def test_the_time_that_confirms_it(name):
    times, hit = TIMES[name]
    way = 15.0 if name == "a long way to the server" else 1.0
    result = judged(*limited(scan(Filter=FILTER)), *times, way=way)
    assert isinstance(result, Hit) is hit
    assert hit or result.by_parameters


def test_the_way_to_the_server_explains_no_walk():
    plan, schema = limited(scan(Filter=FILTER))
    assert isinstance(judged(plan, schema, 25.0, 25.0, 25.0, way=1.0), Hit)
    assert not isinstance(judged(plan, schema, 25.0, 25.0, 25.0, way=24.0), Hit)


#: What makes a walk harmless however long the statement took.
HARMLESS = {
    "a third passes": limited(scan(Filter=FILTER) | {"Plan Rows": 33_334.0}),
    "cheap to its end": limited(scan(Filter=FILTER) | {"Total Cost": 99.0}, **{"Total Cost": 1.0}),
    "much of it is expected to be read": limited(scan(Filter=FILTER) | {"Total Cost": 240.0}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_walk(name):
    assert not isinstance(judged(*HARMLESS[name], 900.0), Hit)


@pytest.mark.parametrize(("rows", "removed", "hit"), [(10, 90_000, True), (10, 2000, False)])
def test_the_rows_that_were_read_decide(rows, removed, hit):
    plan, schema = limited(scan(Filter=FILTER))
    counted = {"Actual Rows": rows, "Actual Loops": 1, "Rows Removed by Filter": removed}
    analysed, _ = limited(scan(Filter=FILTER) | counted, **{"Actual Loops": 1})
    result = judged(plan, schema, 900.0 if not hit else 0.1, analysed=analysed)
    assert isinstance(result, Hit) is hit


@pytest.mark.parametrize("condition", ["(lower(d.town) = 't'::text)", "(d.town ~~ '%t%'::text)"])
def test_what_another_rule_explains(condition):
    assert suspect(*limited(scan(Filter=condition))) == []

"""How many rows an index would leave, and when that is said to be enough: no server is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flask_planwatch.plan.evidence import Evidence, Hit
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import missing_index
from flask_planwatch.rules.fewer_rows import FewerRows, fewer_rows

from ..indexes.data import COLUMNS, index, table
from .without_server import judged_by

#: A table of 100 000 rows whose indexes begin with what is compared or sorted by.
INDEXES = [index("by_town", "town"), index("by_state", "state"), index("by_at", "at")]
DEED = table(indexes=INDEXES)


def scan(rows: float, where: str = "", **changes: Any) -> dict[str, Any]:
    """Return the JSON of a Seq Scan of the whole table that lets so many rows pass."""
    node = {
        "Node Type": "Seq Scan",
        "Schema": "public",
        "Relation Name": "deed",
        "Alias": "d",
        "Total Cost": 4000.0,
        "Plan Rows": rows,
        **({"Filter": f"({where})"} if where else {}),
    }
    return node | changes


def bitmap(found: float, rows: float, by: str, where: str = "", **changes: Any) -> dict[str, Any]:
    """Return the JSON of a Bitmap Heap Scan that finds some rows, of which some pass."""
    below = {
        "Node Type": "Bitmap Index Scan",
        "Index Name": changes.pop("index", "by_town"),
        "Index Cond": f"({by})",
        "Plan Rows": found,
    }
    kind = {"Node Type": "Bitmap Heap Scan", "Recheck Cond": f"({by})", "Plans": [below]}
    return scan(rows, where, **kind, **changes)


def first(count: float, below: dict[str, Any], order: str = "d.at DESC NULLS LAST") -> Any:
    """Return the JSON of a LIMIT that sorts what is below it; the whole costs 100 more."""
    cost, rows = below["Total Cost"], below["Plan Rows"]
    sort = {
        "Node Type": "Sort",
        "Sort Key": [order],
        "Startup Cost": cost + 50,
        "Total Cost": cost + 150,
        "Plan Rows": rows,
        "Plans": [below],
    }
    part = cost + 50 + 100 * count / rows
    return {"Node Type": "Limit", "Total Cost": part, "Plan Rows": count, "Plans": [sort]}


def left(document: Any, relation: Any = DEED, **known: Any) -> FewerRows | None:
    plan = Plan.from_json({"Plan": document})
    schema = Schema({relation.key: relation})
    (suspicion,) = missing_index.suspect(plan, schema)
    usual = {
        "statement": "SELECT",
        "min_rows": 1000,
        "growth": False,
        "duration_ms": 50.0,
        "returned_rows": None,
    }
    return fewer_rows(suspicion, Evidence(plan, schema, **{**usual, **known}))


TOWN, STATE = "d.town = 't'::text", "d.state = 's'::text"

#: A plan, and the rows that are read now and with an index, None if that is not worth an index.
LEFT = {
    "the first rows": (first(10, scan(100_000)), (100_000, 10)),
    "the first 200 cost a fifth less on a page each": (first(200, scan(100_000)), (100_000, 200)),
    "the first 900 may cost more": (first(900, scan(100_000)), None),
    "the first rows of those with one value": (
        first(10, bitmap(5000, 5000, TOWN)),
        (5000, 10),
    ),
    "a twentieth": (first(250, bitmap(5000, 5000, TOWN)), (5000, 250)),
    "less than a tenth": (first(501, bitmap(5000, 5000, TOWN)), None),
    "less than a thousand rows spared": (first(10, bitmap(1000, 1000, TOWN)), None),
    "half of the rows pass a range": (first(10, scan(50_000, "d.points > 5")), (100_000, 20)),
    "a third is evenly spread": (first(10, scan(31_000, "d.points > 5")), (100_000, 32)),
    "a quarter may be not": (first(10, scan(25_000, "d.points > 5")), None),
    "a range beside a value": (
        first(10, bitmap(5000, 2500, TOWN, "d.points > 5")),
        (5000, 20),
    ),
    "a range by which rows are found now is no part of the index": (
        first(10, bitmap(5000, 5000, "d.at > '2020-01-01'", index="by_at"), "d.points"),
        None,
    ),
    "two values": (
        first(10, scan(2000, f"({TOWN}) AND ({STATE})")),
        (100_000, 10),
    ),
    "a list of values has no order": (
        first(10, scan(90_000, "d.state = ANY ('{a,b}'::text[])")),
        None,
    ),
    "a value in one of two columns": (
        first(10, scan(99_000, f"({TOWN}) OR ({STATE})")),
        (100_000, 10),
    ),
    "the condition of a partial index is not in the plan": (
        first(10, bitmap(5000, 5000, TOWN, index="of_some")),
        None,
    ),
    "one value in an index, another beside it": (
        bitmap(20_000, 100, TOWN, STATE),
        (20_000, 100),
    ),
    "two values, none in an index": (
        scan(100, f"({TOWN}) AND ({STATE})"),
        (100_000, 100),
    ),
    "a value and a range": (
        scan(100, f"({TOWN}) AND (d.at > '2020-01-01')"),
        (100_000, 100),
    ),
    "more rows than an index pays for": (scan(900, f"({TOWN}) AND ({STATE})"), None),
    "of two ranges, an index finds one: the rows of the value are left": (
        scan(10, f"({TOWN}) AND (d.points > 5) AND (d.id > 7)"),
        (100_000, 100_000 / 300),
    ),
    "of other conditions as well": (
        scan(1, f"({TOWN}) AND ({STATE}) AND (d.note ~~ '%x%'::text)"),
        (100_000, 100_000 / 300 / 5),
    ),
    "of other conditions, and a value that many rows may have": (
        scan(1, f"({TOWN}) AND (d.points > 5) AND (d.id > 7)"),
        None,
    ),
    "one value": (scan(100, TOWN), None),
    "an index holds all, in another order": (
        scan(100, f"({TOWN}) AND ({STATE})"),
        None,
    ),
    "a scan by an index reads a row for each page's cost": (
        scan(
            10,
            STATE,
            **{
                "Node Type": "Index Scan",
                "Index Name": "by_at",
                "Index Cond": "(d.at > '2020-01-01')",
                "Total Cost": 8000.0,
            },
        ),
        (2000, 10),
    ),
}

#: The indexes where they are other ones.
OTHER_INDEXES = {
    "the condition of a partial index is not in the plan": [
        index("of_some", "town", predicate="done"),
        *INDEXES,
    ],
    "an index holds all, in another order": [index("both", "state", "town"), *INDEXES],
}


#: The share of the rows that have the most common town, where there is one.
FREQUENCY = {"of other conditions, and a value that many rows may have": 0.2}


@pytest.mark.parametrize("name", LEFT)
def test_leaves(name):
    document, expected = LEFT[name]
    shares = {"town": FREQUENCY.get(name, 0.0)}
    columns = [replace(column, frequency=shares.get(column.name, 0.0)) for column in COLUMNS]
    relation = table(indexes=OTHER_INDEXES.get(name, INDEXES), columns=columns)
    found = left(document, relation)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.read, found.left) == pytest.approx(expected, rel=0.02)


def test_counts_the_rows_of_an_offset():
    plan = first(10, scan(100_000))
    plan["Total Cost"] = first(60, scan(100_000))["Total Cost"]
    assert left(plan).left == pytest.approx(60)


@pytest.mark.parametrize(("returned", "speaks"), [(10, True), (9, False), (None, True)])
def test_a_limit_that_is_not_reached_reads_the_whole_index(returned, speaks):
    document = first(10, scan(50_000, "d.points > 5"))
    assert (left(document, returned_rows=returned) is not None) is speaks


@pytest.mark.parametrize(("returned", "speaks"), [(400, True), (900, False)])
def test_what_was_returned_counts_more_than_an_estimate(returned, speaks):
    document = scan(100, f"({TOWN}) AND ({STATE})")
    assert (left(document, returned_rows=returned) is not None) is speaks


def test_two_limits_have_a_scan_each():
    other = first(90_000, scan(100_000, Alias="d_1"), "d_1.at DESC NULLS LAST")
    both = {"Node Type": "Append", "Total Cost": 9000.0, "Plans": [first(10, scan(100_000)), other]}
    assert left(both) is None


def test_a_join_below_the_limit_is_another_matter():
    other = {"Node Type": "Function Scan", "Alias": "o", "Total Cost": 1.0, "Plan Rows": 10}
    join = {
        "Node Type": "Hash Join",
        "Total Cost": 5000.0,
        "Plan Rows": 100_000,
        "Hash Cond": "(d.points = o.points)",
        "Plans": [scan(100_000), {"Node Type": "Hash", "Plans": [other]}],
    }
    plan = first(10, join)
    assert left(plan) is None


#: What a finding says that rests on it, of the columns that an index has to hold.
SAID = {
    "another order": (first(10, scan(100_000)), "by_at has another order", "at"),
    "one value, in an order": (
        first(10, bitmap(5000, 5000, TOWN)),
        "by_town lacks at",
        "at",
    ),
    "alternatives, in an order": (
        first(10, scan(99_000, f"({TOWN}) OR ({STATE})"), "d.points"),
        "no index ordered by points",
        "points",
    ),
    "two values": (scan(100, f"({TOWN}) AND ({STATE})"), "by_town lacks state", "town, state"),
}


@pytest.mark.parametrize("name", SAID)
def test_says(name):
    document, why, subject = SAID[name]
    plan = Plan.from_json({"Plan": document})
    result = judged_by(missing_index, plan, Schema({DEED.key: DEED}))
    assert isinstance(result, Hit)
    assert (result.doubt, result.why, result.suspicion.subject) == (None, why, subject)
    assert "By PostgreSQL's estimates, an index " in result.problem

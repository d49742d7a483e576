"""What hypothetical indexes cost once they are built."""

from __future__ import annotations

from typing import Any

import pytest

from flask_planwatch.indexes.btree import PAGE, Size
from flask_planwatch.indexes.hypothetical import Hypothetical, Prices, as_built
from flask_planwatch.plan.tree import Plan

#: The defaults of cpu_operator_cost and random_page_cost.
PRICES = Prices(operator=0.0025, page=4.0)

#: A search of two levels and the page with the entry: three times 50 operators.
DESCENT = 0.375

#: HypoPG is right about its size, if nothing else is said.
INDEXES = {"<1>trial": Hypothetical(100_000, 300, Size(300 * PAGE, 2))}


def node(kind: str, startup: float, total: float, *below: dict[str, Any], **more: Any) -> dict:
    return {
        "Node Type": kind,
        "Startup Cost": startup,
        "Total Cost": total,
        "Plan Rows": 1,
        "Plans": list(below),
        **{key.replace("_", " "): value for key, value in more.items()},
    }


def scan(startup: float = 0.0, total: float = 8.0, kind: str = "Index Scan", **more: Any) -> dict:
    return node(kind, startup, total, **{"Index_Name": "<1>trial", **more})


def nested_loop(inner: dict, *, rows: int, total: float, **more: Any) -> dict:
    outer = node("Seq Scan", 0, 100, Plan_Rows=rows, Parent_Relationship="Outer")
    outer["Relation Name"] = "o"
    return node("Nested Loop", 0, total, outer, {**inner, "Parent Relationship": "Inner"}, **more)


def limit(below: dict, total: float) -> dict:
    return node("Limit", below["Startup Cost"], total, {**below, "Parent Relationship": "Outer"})


def sub_query(below: dict, *, name: str = "SubPlan 1", **more: Any) -> dict:
    below = {**below, "Parent Relationship": name.split()[0], "Subplan Name": name}
    return node("Seq Scan", 0, 900, below, **more)


IN_LIST = "(id = ANY ('{1,2,3,4}'::integer[]))"

#: A plan, and how many searches are added until its first row, and until its last.
PLANS = {
    "another index": (scan(Index_Name="other"), 0, 0),
    "one search": (scan(), 1, 1),
    "a bitmap of one search": (
        node("Bitmap Heap Scan", 4, 9, scan(0, 4, "Bitmap Index Scan")),
        1,
        1,
    ),
    "a list": (scan(Index_Cond=IN_LIST), 1, 4),
    "a list of texts with commas": (
        scan(Index_Cond="""(town = ANY ('{"a,b","it''s \\\\"c\\\\", d"}'::text[]))"""),
        1,
        2,
    ),
    "a list that is no constant": (scan(Index_Cond="(id = ANY ($1))"), 1, 10),
    "a list of two columns": (scan(Index_Cond=f"({IN_LIST} AND {IN_LIST})"), 1, 16),
    "a long list": (
        scan(Index_Cond=f"(id = ANY ('{{{','.join(map(str, range(500)))}}}'::integer[]))"),
        1,
        100,
    ),
    "for each row of a join": (nested_loop(scan(), rows=50, total=600), 1, 50),
    "for each row of two joins": (
        nested_loop(nested_loop(scan(), rows=5, total=140), rows=10, total=1600),
        1,
        50,
    ),
    "once for a join": (
        nested_loop(node("Materialize", 0, 8, scan()), rows=50, total=600),
        1,
        1,
    ),
    "from memory for four rows of five": (
        nested_loop(node("Memoize", 0, 8, scan()), rows=50, total=180),
        1,
        10,
    ),
    "a quarter of a join": (limit(nested_loop(scan(), rows=41, total=400), 100), 1, 11),
    "sorted": (limit(node("Sort", 600, 601, nested_loop(scan(), rows=50, total=600)), 601), 50, 50),
    "a sub-query that runs once": (sub_query(scan(), name="InitPlan 1"), 1, 1),
    "a sub-query for each row": (
        sub_query(scan(), Output=["(SubPlan 1)"], Plan_Rows=100),
        0,
        100,
    ),
    "a sub-query for each row that is tested": (
        sub_query(scan(0, 9), Filter="((SubPlan 1) > 7)"),
        0,
        100,
    ),
    "a hashed sub-query": (sub_query(scan(), Filter="(NOT (hashed SubPlan 1))"), 1, 1),
    "rounds of a recursive query": (
        node(
            "Recursive Union",
            0,
            100,
            node("Result", 0, 1, Parent_Relationship="Outer"),
            scan(Parent_Relationship="Inner"),
        ),
        1,
        10,
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_each_search_is_charged(name):
    document, first, last = PLANS[name]
    before = Plan.from_json(document)
    after = as_built(before, INDEXES, PRICES)
    added = [
        after.root.startup_cost - before.root.startup_cost,
        after.total_cost - before.total_cost,
    ]
    assert added == pytest.approx([first * DESCENT, last * DESCENT])


def test_only_costs_change():
    before = Plan.from_json(nested_loop(scan(Index_Cond="(id = 1)"), rows=50, total=600))
    after = as_built(before, INDEXES, PRICES)
    assert [node.conditions for node in after.nodes] == [node.conditions for node in before.nodes]
    assert after.shape == before.shape
    assert before.total_cost == 600


def test_a_plan_without_the_indexes_is_the_same_object():
    plan = Plan.from_json(scan(Index_Name="other"))
    assert as_built(plan, INDEXES, PRICES) is plan


#: HypoPG takes the index for twice as large. A plan, and the pages that the server does not read.
TWICE = {"<1>trial": Hypothetical(100_000, 600, Size(300 * PAGE, 2))}
PAGES = {
    "one row": (scan(Index_Cond="(id = 1)"), 0),
    "a tenth": (scan(Index_Cond="(id < 1)", Plan_Rows=10_000), 30),
    "all": (scan(Plan_Rows=100_000), 300),
    "all, of which few are left": (scan(Filter="(town = 1)", Plan_Rows=7), 300),
    "a tenth by a list of three": (
        scan(Index_Cond="(id = ANY ('{1,2,3}'::integer[]))", Plan_Rows=10_000),
        # index_pages_fetched(): 60 of 600 pages are some 58, 30 of 300 are 29.
        29,
    ),
    "a page for each row of a join": (
        nested_loop(scan(Index_Cond="(id = o.id)"), rows=10_000, total=90_000),
        # Each page is read once, then it is in memory.
        300,
    ),
    "a page for each row of a join of joins": (
        nested_loop(nested_loop(scan(), rows=100, total=900), rows=100, total=90_000),
        # For how many rows the planner takes it to be searched is not in the plan.
        0,
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_that_are_not_there_are_not_charged(name):
    document, pages = PAGES[name]
    before = Plan.from_json(document)
    charged, less = (as_built(before, indexes, PRICES).total_cost for indexes in (INDEXES, TWICE))
    assert charged - less == pytest.approx(pages * PRICES.page, abs=1e-6)


@pytest.mark.parametrize("rows", [0, 0.5])
def test_an_index_without_a_row_is_read_as_a_whole(rows):
    """The planner expects a row of any table, and many of one that was never analysed."""
    index = {"<1>trial": Hypothetical(rows, 2, Size(PAGE, 0))}
    before = Plan.from_json(scan(Index_Cond="(id = 1)", Plan_Rows=10))
    one_page_less = DESCENT / 3 - PRICES.page
    after = as_built(before, index, PRICES)
    assert after.total_cost - before.total_cost == pytest.approx(one_page_less)

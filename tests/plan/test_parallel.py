"""The rows of a parallel plan are those of all processes, in plans that were made by hand.

Whether they are what the server expects without workers is in tests/test_parallel_rows.py.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import flask_planwatch
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Node, Plan
from flask_planwatch.plan.work import Work

PACKAGE = Path(flask_planwatch.__file__).parent


def step(kind: str, rows: float, *below: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a node of a plan's JSON; the first input is the outer one."""
    sides = ("Outer", "Inner")
    named = [
        {"Parent Relationship": side, **child} for side, child in zip(sides, below, strict=False)
    ]
    return {"Node Type": kind, "Plan Rows": rows, "Plans": named, **more}


def parallel(kind: str, rows: float, *below: dict[str, Any], **more: Any) -> dict[str, Any]:
    return step(kind, rows, *below, **{"Parallel Aware": True, **more})


def gather(
    workers: int, below: dict[str, Any], kind: str = "Gather", **more: Any
) -> dict[str, Any]:
    return step(kind, 1, below, **{"Workers Planned": workers, **more})


def append(kind: str, rows: float, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    members = [{**part, "Parent Relationship": "Member"} for part in parts]
    return {"Node Type": kind, "Plan Rows": rows, "Plans": members, **more}


def plan_of(node: dict[str, Any], leader: str | None = None) -> Plan:
    settings = {} if leader is None else {"parallel_leader_participation": leader}
    return Plan.from_json([{"Plan": node, "Settings": settings}])


def the(plan: Plan, kind: str) -> Node:
    (found,) = [node for node in plan.nodes if node.type == kind]
    return found


#: Planned workers, whether the leader participates, and by what get_parallel_divisor() divides.
DIVISORS = [
    (1, None, 1.7),
    (2, None, 2.4),
    (2, "on", 2.4),
    (3, None, 3.1),
    (4, None, 4.0),
    (8, None, 8.0),
    (1, "off", 1.0),
    (2, "off", 2.0),
    (4, "off", 4.0),
]


@pytest.mark.parametrize("kind", ["Gather", "Gather Merge"])
@pytest.mark.parametrize(("workers", "leader", "divisor"), DIVISORS)
def test_rows_of_a_scan_are_those_of_all_processes(workers, leader, divisor, kind):
    scan = parallel("Seq Scan", 1000)
    plan = plan_of(gather(workers, step("Sort", 1000, scan), kind), leader)
    assert the(plan, "Seq Scan").rows == pytest.approx(1000 * divisor)
    assert the(plan, "Sort").rows == pytest.approx(1000 * divisor)


def test_rows_are_as_printed_without_workers_and_at_the_gather():
    plan = plan_of(step("Hash Join", 70, gather(2, parallel("Seq Scan", 50)), step("Hash", 9)))
    assert [node.rows for node in plan.nodes] == [70, 1, 120, 9]


def test_what_a_gather_merge_merges_has_the_rows_of_all_processes():
    # Up to 17, the server prints those of the workers: 2000.
    sort = step("Sort", 1000, parallel("Seq Scan", 1000))
    merge = gather(2, sort, "Gather Merge", **{"Plan Rows": 2000})
    assert plan_of(merge).root.rows == 2400
    assert plan_of(gather(1, step("Sort", 70), "Gather Merge")).root.rows == 1


def test_rows_of_a_partial_aggregate_are_those_that_all_processes_return():
    partial = step("Aggregate", 10, parallel("Seq Scan", 1000), **{"Partial Mode": "Partial"})
    plan = plan_of(gather(2, partial))
    assert the(plan, "Aggregate").rows == 24


def test_a_single_copy_is_not_divided():
    plan = plan_of(gather(1, step("Seq Scan", 1000), **{"Single Copy": True}))
    assert the(plan, "Seq Scan").rows == 1000
    assert the(plan, "Seq Scan").share.processes == 1


def runs(plan: Plan, kind: str) -> float:
    return plan.loops[id(the(plan, kind))]


def test_the_inner_side_of_a_nested_loop_runs_for_each_row_of_all_processes():
    loop = step("Nested Loop", 1000, parallel("Seq Scan", 1000), step("Index Scan", 3))
    plan = plan_of(gather(2, loop))
    assert the(plan, "Index Scan").rows == 3
    assert runs(plan, "Seq Scan") == runs(plan, "Nested Loop") == 1
    assert runs(plan, "Index Scan") == 2400


def test_each_process_builds_a_hash_table_of_its_own():
    join = step(
        "Hash Join", 1000, parallel("Index Scan", 1000), step("Hash", 50, step("Seq Scan", 50))
    )
    plan = plan_of(gather(2, join))
    assert the(plan, "Hash").rows == the(plan, "Seq Scan").rows == 50
    assert runs(plan, "Hash") == runs(plan, "Seq Scan") == 3
    assert runs(plan_of(gather(2, join), "off"), "Seq Scan") == 2


def test_all_processes_build_a_parallel_hash_together():
    inner = parallel("Hash", 50, parallel("Seq Scan", 50))
    plan = plan_of(gather(2, parallel("Hash Join", 1000, parallel("Index Scan", 1000), inner)))
    assert the(plan, "Hash").rows == the(plan, "Seq Scan").rows == 120
    assert runs(plan, "Hash") == runs(plan, "Seq Scan") == 1


def test_each_process_reads_the_inner_side_of_a_merge_join():
    join = step("Merge Join", 1000, parallel("Index Scan", 1000), step("Seq Scan", 50))
    plan = plan_of(gather(4, join))
    assert the(plan, "Seq Scan").rows == 50
    assert runs(plan, "Seq Scan") == 5


def expected_runs(plan: Plan, kind: str) -> float:
    return Work(plan, Schema()).expected_runs[id(the(plan, kind))]


def test_the_work_of_a_plan_is_that_of_all_processes():
    sorted_by_each = step("Sort", 50, step("Seq Scan", 50))
    merge = step("Merge Join", 1000, parallel("Index Scan", 1000), sorted_by_each)
    assert expected_runs(plan_of(gather(2, merge)), "Seq Scan") == 3
    kept = step("Materialize", 50, step("Seq Scan", 50))
    loop = step("Nested Loop", 1000, parallel("Index Scan", 1000), kept)
    plan = plan_of(gather(2, loop))
    assert expected_runs(plan, "Materialize") == 2400
    assert expected_runs(plan, "Seq Scan") == 3
    assert expected_runs(plan_of(loop), "Seq Scan") == 1


def test_one_process_reads_the_index_for_a_parallel_bitmap():
    heap = parallel("Bitmap Heap Scan", 100, step("Bitmap Index Scan", 240))
    plan = plan_of(gather(2, heap))
    assert the(plan, "Bitmap Heap Scan").rows == the(plan, "Bitmap Index Scan").rows == 240
    assert runs(plan, "Bitmap Index Scan") == 1


def test_sub_queries_are_not_divided():
    scan = parallel("Seq Scan", 1000)
    below = step("Limit", 1, **{"Parent Relationship": "SubPlan", "Subplan Name": "SubPlan 1"})
    scan["Plans"] = [below]
    plan = plan_of(gather(2, scan))
    assert (the(plan, "Limit").rows, runs(plan, "Limit")) == (1, 1)


def test_a_gather_in_a_sub_query_divides_what_is_below_it_alone():
    below = gather(4, parallel("Index Scan", 10), **{"Parent Relationship": "InitPlan"})
    result = {"Node Type": "Result", "Plan Rows": 1, "Plans": [below, parallel("Seq Scan", 10)]}
    plan = plan_of(result)
    assert (the(plan, "Index Scan").rows, the(plan, "Seq Scan").rows) == (40, 10)
    assert the(plan, "Result").share.shared is False


@pytest.mark.parametrize("kind", ["Append", "Merge Append"])
def test_a_part_of_an_append_that_one_process_reads_is_whole(kind):
    parts = (step("Index Scan", 240), parallel("Seq Scan", 1000))
    # (240 + 1000 * 2.4) / 2.4
    plan = plan_of(gather(2, append(kind, 1100, *parts, **{"Parallel Aware": kind == "Append"})))
    assert the(plan, kind).rows == pytest.approx(2640)
    assert the(plan, "Index Scan").rows == 240
    assert the(plan, "Seq Scan").rows == pytest.approx(2400)
    assert runs(plan, "Index Scan") == 1


def test_a_small_partition_has_fewer_workers_than_the_append():
    # One worker and the leader: each is expected to return 1/1.7 of 1700 rows.
    parts = (parallel("Seq Scan", 1000), parallel("Index Scan", 1000))
    plan = plan_of(gather(3, append("Append", 3400 / 3.1, *parts)))
    assert the(plan, "Append").rows == pytest.approx(3400)
    assert the(plan, "Seq Scan").rows == pytest.approx(1700)


def test_a_part_has_no_more_workers_than_the_append():
    # The parts that were left out at the start of the execution count in the Append's rows.
    pruned = append("Append", 5000, parallel("Seq Scan", 1000), **{"Subplans Removed": 4})
    assert the(plan_of(gather(2, pruned)), "Seq Scan").rows == 2400
    nothing = append("Append", 0, parallel("Seq Scan", 0))
    assert the(plan_of(gather(2, nothing)), "Seq Scan").rows == 0


def test_what_an_execution_counted_is_compared_for_all_processes_together():
    counted = {"Actual Loops": 3, "Actual Rows": 500}
    hashed = step("Hash", 50, **{"Actual Loops": 3, "Actual Rows": 50})
    join = step("Hash Join", 1000, parallel("Seq Scan", 1000, **counted), hashed, **counted)
    gathered = gather(2, join, **{"Actual Loops": 1, "Actual Rows": 1500})
    plan = plan_of(gathered)
    scan, built = the(plan, "Seq Scan"), the(plan, "Hash")
    assert (plan.expected_rows(scan), scan.returned_rows) == (2400, 1500)
    assert (plan.expected_rows(built), built.returned_rows) == (150, 150)


@pytest.mark.parametrize("workers", [None, 0, -3, "many", [], 10**400])
def test_workers_that_are_no_number_do_not_break_it(workers):
    node = gather(2, parallel("Seq Scan", 10))
    node["Workers Planned"] = workers
    plan = Plan.from_json({"Plan": node, "Settings": ["off"]})
    assert 10 <= the(plan, "Seq Scan").rows <= 10 * 1024


#: Those that read the figure of one worker: to make that of all of it, or to print it as it is.
READERS = {"plan/parallel.py", "plan/tree.py", "plan/text.py", "plan/scrub.py"}


def test_no_other_module_reads_the_rows_of_one_worker():
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value == "Plan Rows"
    }
    assert found == READERS

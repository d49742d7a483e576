"""A plan is printed as the server prints it: both come from the same server, as recorded."""

from __future__ import annotations

import re

import pytest

from flask_planwatch.plan.scrub import scrub_plan
from flask_planwatch.plan.text import quoted_identifier
from flask_planwatch.plan.tree import Plan

from . import plan_names, read

#: What EXPLAIN ANALYZE measures besides rows and loops, which PlanWatch leaves out.
MEASURED = re.compile(
    r" *(Buffers|I/O Timings|Sort Method|Heap Blocks|Batches|Buckets|Storage|Hits): |"
    r"Planning|Execution Time| *Worker \d|"
    # Less than half a row for each loop: the JSON has 0, as for none.
    r" *Rows Removed by Filter: 0"
)


def from_server(name: str) -> list[str]:
    """The text of a recorded plan, as far as PlanWatch prints it."""
    lines = [line for line in read(name)["text"] if not MEASURED.match(line)]
    # What comes after "Planning:" belongs to no step of the plan.
    return [line for line in lines if "Planning" not in line]


@pytest.mark.parametrize("name", plan_names())
def test_text_is_that_of_the_server(name):
    plan = Plan.from_json(read(name)["plan"])
    assert plan.as_text().splitlines() == from_server(name)


@pytest.mark.parametrize("name", plan_names())
def test_text_without_values_has_the_same_steps(name):
    scrubbed = scrub_plan(Plan.from_json(read(name)["plan"])).as_text().splitlines()
    server = from_server(name)
    first_lines = [line for line in scrubbed if "(cost=" in line]
    assert first_lines == [line for line in server if "(cost=" in line]
    named = re.compile(r" *(?:InitPlan|SubPlan|CTE) \S+(?: \(returns [$\d,]+\))?")
    assert list(filter(named.fullmatch, scrubbed)) == list(filter(named.fullmatch, server))


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("badge", "badge"),
        ("user", '"user"'),
        ("Order", '"Order"'),
        ("with blank", '"with blank"'),
        ('we"ird', '"we""ird"'),
        ("1st", '"1st"'),
        ("größe", '"größe"'),
        ("_a1", "_a1"),
    ],
)
def test_names_are_quoted_where_postgresql_quotes_them(name, printed):
    assert quoted_identifier(name) == printed

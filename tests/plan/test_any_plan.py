"""The parser and the rules take any plan, judge what they know, and never raise."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_planwatch.inspection.inspector import suspicions
from flask_planwatch.plan.access import accesses
from flask_planwatch.plan.comparison import comparisons
from flask_planwatch.plan.evidence import Hit, Miss
from flask_planwatch.plan.index_use import is_gone, served
from flask_planwatch.plan.scrub import scrub_plan
from flask_planwatch.plan.tree import Plan, UnreadablePlan
from flask_planwatch.rules import RULES, modules

from .any_plan import SHAPES, AnyPlan

pytestmark = pytest.mark.slow

#: As many nodes as the largest plans that people send to explain.depesz.com.
MOST_NODES = 5_000

WITHOUT_HURRY = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

SEEDS = st.integers(0, 2**32)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("Plan", "Plans", "Node Type", "Total Cost", "Filter", "Output"))
            | st.text(max_size=5),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


def judged(plan: Plan, make: AnyPlan, others: list[Plan]) -> list[Hit | Miss]:
    """Ask every rule, and everything else that reads a plan."""
    schema = make.schema()
    assert plan.as_text()
    scrub_plan(plan, frozenset({"x"}))
    served(plan, schema)
    is_gone(plan, {"public.user"}, "lower(email)")
    list(comparisons(plan, schema))
    accesses(plan, schema)
    suspicions(plan, schema, frozenset({"lower(email)"}))
    said = []
    for rule in modules():
        for suspicion in rule.suspect(plan, schema):
            assert suspicion.rule == rule.NAME
            result = rule.judge(suspicion, make.evidence(plan, schema, [plan, *others]))
            assert isinstance(result, Hit | Miss)
            assert result.suspicion.rule == rule.NAME
            said.append(result)
    return said


@given(DOCUMENTS)
@WITHOUT_HURRY
def test_any_document_is_a_plan_or_named_as_none(document: object) -> None:
    try:
        plan = Plan.from_json(document)
    except UnreadablePlan:
        return
    assert plan.nodes[0] is plan.root
    judged(plan, AnyPlan(Random(0)), [])


@pytest.mark.parametrize("shape", SHAPES)
@given(seed=SEEDS, size=st.integers(1, 40))
@WITHOUT_HURRY
def test_every_rule_takes_any_plan(shape: str, seed: int, size: int) -> None:
    make = AnyPlan(Random(seed))
    others = [Plan.from_json(make.document(5, "random")) for _ in range(2)]
    plan = Plan.from_json(make.document(size, shape))
    assert 1 <= len(plan.nodes) <= size
    judged(plan, make, others)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_rule_takes_a_plan_of_five_thousand_nodes(shape: str) -> None:
    make = AnyPlan(Random(SHAPES.index(shape)))
    node = make.tree(MOST_NODES, shape)
    plan = Plan.from_json([{"Plan": node}])
    assert len(plan.nodes) > MOST_NODES / 2
    assert judged(plan, make, [plan])


def test_the_plans_are_worth_it() -> None:
    """Among them are some that each rule speaks on, or looks at and lets go."""
    spoken = set()
    for seed in range(400):
        make = AnyPlan(Random(seed))
        plan = Plan.from_json(make.document(30, SHAPES[seed % len(SHAPES)]))
        spoken |= {(one.suspicion.rule, type(one)) for one in judged(plan, make, [plan])}
    assert {rule for rule, _ in spoken} == set(RULES)
    assert len({rule for rule, kind in spoken if kind is Hit}) >= len(RULES) / 2

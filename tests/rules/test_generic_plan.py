"""generic-plan: PostgreSQL chooses a bad plan for all values of a statement.

A row is a statement that runs many times, with one value and then with another: `GENERIC_PLAN` in
stories.py says of each whether the plan flips, and whether that is harmful.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from flask_planwatch import VerdictStatus
from flask_planwatch.failure import ServerError
from flask_planwatch.fixes import generic_plan as fix
from flask_planwatch.plan.evidence import Custom, Evidence, Hit, Miss, Prepared
from flask_planwatch.plan.schema import Column, Relation, Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import generic_plan
from flask_planwatch.server import prepared
from flask_planwatch.server.session import Session
from flask_planwatch.signals import statement_inspected

from ..cases import first
from ..stories import GENERIC_PLAN, HUGE, RARE, Invoice, Medic, Product
from .case import STORIES, Example, Rule, through

pytestmark = pytest.mark.versions

#: Only psycopg 3 prepares statements by itself.
RULE = Rule("generic-plan", STORIES, driver="psycopg", settings={"PLANWATCH_GROWTH": True})

#: The statement on the page of the rule.
EXAMPLE = Example(
    "select(func.sum(Invoice.amount)).where(or_(literal(False), Invoice.tenant_id == value))",
    rewritten="select(func.sum(Invoice.amount)).where(Invoice.tenant_id == value)",
    new="Index Scan using invoice_tenant",
    values=(HUGE,) * 10 + (RARE,),
    of_stories=True,
    prepared=True,
)

HARMFUL = [name for name, case in GENERIC_PLAN.items() if case.flips and case.harmful]
TWINS = [name for name in GENERIC_PLAN if name not in HARMFUL]


def run(watched, case, *, end="commit", times=14, rare=4):
    """Run the statement for each value in turn, each in a transaction that ends like this."""
    values = [case.first] * (times - rare) + [case.then] * rare
    with watched.app.app_context():
        for value in values:
            watched.db.session.execute(case.build(value)).all()
            getattr(watched.db.session, end)()
        watched.db.session.remove()


def found(watched):
    return [one for one in watched.findings() if one.rule == "generic-plan"]


def reasons(watched):
    """Return a list that fills with the reasons why the rule dismissed each statement."""
    seen = []

    def keep(sender, inspection):
        seen.extend(one.reason for one in inspection.dismissals if one.rule == "generic-plan")

    statement_inspected.connect(keep, watched.app, weak=False)
    return seen


@pytest.fixture
def psycopg(rule):
    """A watched app whose driver prepares statements."""
    return rule.app()


def happened(watched, case, count):
    """Return the generic and custom plans that the server itself counted."""
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        connection = connection.execution_options(planwatch=False)
        for value in [case.first] * (count - 1) + [case.then]:
            connection.execute(case.build(value)).all()
            connection.commit()
        return connection.exec_driver_sql(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE NOT from_sql"
        ).one()


@pytest.mark.parametrize("name", first(2, HARMFUL))
def test_speaks(psycopg, name):
    case = GENERIC_PLAN[name]
    run(psycopg, case)
    (finding,) = found(psycopg)
    assert finding.evidence["prepare_threshold"] == 5
    assert finding.evidence["chosen_at_execution"] == 11
    plans = finding.evidence["plans"]
    assert "$1" in plans["for all values"]
    assert "Index" in plans["for these values"]
    assert "as of execution 11 on the same connection" in finding.message
    # This execution may have had the other plan.
    assert " ms" not in finding.title
    assert " rows): one plan for all values, cost " in finding.title
    rewrite, *settings = finding.advice
    assert rewrite.kind == "rewrite"
    assert rewrite.verdict.status is VerdictStatus.VERIFIED
    assert "Index" in rewrite.plan
    assert [one.kind for one in settings] == ["setting", "setting"]
    assert psycopg.planwatch.stats()["errors"] == 0


@pytest.mark.parametrize("name", first(3, GENERIC_PLAN))
def test_the_choice_is_that_of_the_server(psycopg, name):
    case = GENERIC_PLAN[name]
    assert happened(psycopg, case, 11) == ((1, 5) if case.flips else (0, 6))


@pytest.mark.parametrize("name", first(2, TWINS))
def test_is_silent_on_twins(psycopg, name):
    dismissed = reasons(psycopg)
    run(psycopg, GENERIC_PLAN[name])
    assert found(psycopg) == []
    assert set(dismissed) - {"no transaction that it ran in was committed so far"}


@through("psycopg2")
@pytest.mark.parametrize("name", first(1, HARMFUL))
def test_is_silent_for_psycopg2(rule, name):
    watched = rule.app()
    run(watched, GENERIC_PLAN[name])
    assert found(watched) == []


@pytest.mark.parametrize("name", first(1, HARMFUL))
def test_is_silent_if_nothing_is_prepared(rule, name):
    options = {"connect_args": {"prepare_threshold": None}}
    watched = rule.app(SQLALCHEMY_ENGINE_OPTIONS=options)
    run(watched, GENERIC_PLAN[name])
    assert found(watched) == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["rollback", "close"])
def test_is_silent_for_requests_that_only_read(psycopg, end):
    run(psycopg, GENERIC_PLAN["skewed parameter, join"], end=end)
    assert found(psycopg) == []


def test_speaks_if_a_transaction_repeats_it(psycopg):
    run(psycopg, GENERIC_PLAN["skewed parameter, join"], end="flush")
    (finding,) = found(psycopg)
    assert "times on one connection without a ROLLBACK" in finding.message


def test_is_silent_if_a_transaction_repeats_it_too_seldom(psycopg):
    run(psycopg, GENERIC_PLAN["skewed parameter, join"], end="flush", times=10)
    assert found(psycopg) == []


@pytest.mark.slow
def test_speaks_in_autocommit(rule):
    watched = rule.app(SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "AUTOCOMMIT"})
    run(watched, GENERIC_PLAN["skewed parameter, join"], end="rollback")
    (finding,) = found(watched)
    assert "AUTOCOMMIT" in finding.message


def test_speaks_before_it_happens(psycopg):
    """Seven executions are enough to know what the eleventh may do."""
    run(psycopg, GENERIC_PLAN["skewed parameter, join"], times=7, rare=1)
    assert len(found(psycopg)) == 1


def test_the_interval_does_not_hide_it(rule):
    watched = rule.app(PLANWATCH_GROWTH=False, PLANWATCH_SAMPLE_INTERVAL=300)
    run(watched, GENERIC_PLAN["skewed parameter, join"], times=14, rare=3)
    assert len(found(watched)) == 1


def test_is_silent_on_small_tables_in_production(rule):
    case = GENERIC_PLAN["optional condition, few rows"]
    watched = rule.app(PLANWATCH_GROWTH=False)
    run(watched, case)
    assert found(watched) == []


def literal_tenant(tenant):
    bound = sa.bindparam("tenant", tenant, literal_execute=True)
    return (
        sa.select(sa.func.count())
        .select_from(Invoice)
        .join(Product, Product.id == Invoice.product_id)
        .where(Invoice.tenant_id == bound, Product.state == "active")
    )


def needed_medics(include_retired):
    statement = sa.select(Medic.id, Medic.last_name)
    if include_retired:
        return statement
    return statement.where(Medic.state != sa.bindparam("state", "retired", literal_execute=True))


@pytest.mark.parametrize(
    ("name", "mended"),
    [("skewed parameter, join", literal_tenant), ("optional condition", needed_medics)],
)
def test_is_silent_after_the_fix(psycopg, name, mended):
    case = replace(GENERIC_PLAN[name], build=mended)
    run(psycopg, case)
    assert found(psycopg) == []


@pytest.mark.slow
def test_is_silent_with_custom_plans_forced(rule):
    """The driver still prepares it."""
    case = GENERIC_PLAN["skewed parameter, join"]
    options = {"connect_args": {"options": "-c plan_cache_mode=force_custom_plan"}}
    watched = rule.app(SQLALCHEMY_ENGINE_OPTIONS=options)
    assert happened(watched, case, 11) == (0, 6)
    run(watched, case)
    assert found(watched) == []


def test_cannot_tell_is_a_named_skip(psycopg, monkeypatch):
    """What PREPARE refuses; psycopg's own types leave next to nothing to refuse."""
    monkeypatch.setattr(prepared, "types_of", lambda session, values: ["no_such_type"])
    run(psycopg, GENERIC_PLAN["JSON key"], times=3, rare=1)
    assert found(psycopg) == []
    stats = psycopg.planwatch.stats()
    assert stats["skipped"] == {"generic-plan-unknown": 2}
    assert stats["inspected"] == 3


def test_nothing_stays_prepared(rule):
    engine = sa.create_engine(rule.database.url_for("psycopg"))
    session = Session(engine, url=None, statement_timeout_ms=5000, lock_timeout_ms=1000)
    for types in (["int"], ["no_such_type"], []):
        with contextlib.suppress(ServerError):
            prepared.generic_plan(session, "SELECT 1 / $1", types)
        with session.transaction() as transaction:
            assert transaction.fetch("SELECT name FROM pg_prepared_statements") == []
    session.close()
    engine.dispose()


def test_values_are_not_shown(psycopg):
    run(psycopg, GENERIC_PLAN["optional condition"])
    (finding,) = found(psycopg)
    said = f"{finding.message} {finding.evidence} {[one.as_dict() for one in finding.advice]}"
    assert "retired" not in said


def plan(cost, node="Seq Scan", index=None):
    return Plan.from_json(
        {
            "Node Type": node,
            "Relation Name": "t",
            "Schema": "public",
            "Alias": "t",
            "Index Name": index,
            "Total Cost": cost,
        }
    )


def judged(*costs, generic=100.0, order=None, planning=5.0, forced=None, **changes):
    customs = tuple(Custom(plan(cost), forced or generic) for cost in costs)
    seen = Prepared(5, plan(generic), customs, order or (0,), planning, True, "why")
    evidence = Evidence(
        plan(costs[0]), Schema(), "", 0, True, 1.0, 1, prepared=replace(seen, **changes)
    )
    (suspicion,) = generic_plan.suspect(evidence.plan, evidence.schema)
    return generic_plan.judge(suspicion, evidence)


def test_the_rule_of_the_server():
    """It takes the generic plan if that costs less than the average with planning."""
    assert isinstance(judged(96, 1, order=(0,)), Hit)
    assert isinstance(judged(94, 1, order=(0,)), Miss)
    assert isinstance(judged(96, 1, order=(0,) * 10 + (1,)), Hit)
    assert isinstance(judged(96, 1, order=(1,) * 10 + (0,)), Miss)
    assert isinstance(judged(200, 1, order=(0, 1, 1, 1, 1, 1)), Miss), (
        "five have plans of their own"
    )


def test_what_is_not_reached_is_silent():
    assert isinstance(judged(96, 1, reached=False), Miss)


def test_a_plan_that_is_as_good_is_silent():
    assert isinstance(judged(96, 51), Miss)
    assert isinstance(judged(96, 49), Hit)


def test_the_rewrite_is_in_the_words_of_the_app(psycopg):
    run(psycopg, GENERIC_PLAN["optional condition"])
    (finding,) = found(psycopg)
    rewrite = finding.advice[0]
    assert "param_1" in rewrite.summary
    assert "let state_1 reach the planner" in rewrite.summary
    assert (
        'statement = statement.where(Medic.state != bindparam("state_1", …, literal_execute=True))'
        in rewrite.sqlalchemy
    )


def test_the_first_parameter_is_not_taken_for_the_tenth():
    """The conditions stand in any order, and `$10` begins with `$1`."""
    generic = Plan.from_json(
        {
            "Node Type": "Seq Scan",
            "Schema": "public",
            "Relation Name": "item",
            "Alias": "item",
            "Filter": "((item.kind >= $10) AND ($11 OR (item.kind = $12)) AND (item.tenant = $1))",
        }
    )
    columns = tuple(Column(name, "integer", quoted_name=name) for name in ("tenant", "kind"))
    item = Relation(
        "public.item", "public", "item", "item", "item", "r", 1e5, "public.item", columns=columns
    )
    case = SimpleNamespace(schema=Schema({"public.item": item}), mapped=lambda relation: None)
    assert fix._bound(case, generic, 0, "first") == "item.c.tenant == first"
    assert fix._bound(case, generic, 9, "tenth") == "item.c.kind >= tenth"
    switched = fix._switched(case, generic, [10], {0: "first", 11: "twelfth"})
    assert list(switched) == ["item.c.kind == twelfth"]
    assert list(fix._switched(case, generic, [0], {})) == []

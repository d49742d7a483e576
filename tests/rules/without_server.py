"""What a rule makes of a plan that was recorded, or made by hand: no server is needed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from flask_planwatch.plan.evidence import Evidence, Hit, Miss
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan

from ..plan import read


def recorded(name: str) -> Plan:
    """Return a plan of `tests/plan/recorded`."""
    return Plan.from_json(read(name)["plan"])


def judged_by(rule: ModuleType, plan: Plan, schema: Schema, **known: Any) -> Hit | Miss:
    """Return what a rule says of the only thing that it suspects in a plan.

    The statement took 250 ms, and of a table that is worth a warning; `known` says what else.
    """
    (suspicion,) = rule.suspect(plan, schema)
    usual = {
        "statement": "SELECT",
        "min_rows": 1000,
        "growth": False,
        "duration_ms": 250.0,
        "returned_rows": None,
    }
    return rule.judge(suspicion, Evidence(plan, schema, **{**usual, **known}))

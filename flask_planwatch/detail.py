"""What only a panel shows of an inspection: it has the values, and goes with its request."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .plan.tree import Plan

#: Characters of one; a longer one is not kept, and the panel shows what is without values.
MAX_SIZE = 100_000


@dataclass(frozen=True)
class Detail:
    """A statement and its plan with their values.

    `statement` is SQL that psql takes, nothing if the driver has no form for a value; `plan` is the
    plan as text, `plan_json` as JSON.
    """

    statement: str
    plan: str
    plan_json: str


def detail_of(statement: str, plan: Plan) -> Detail | None:
    """Return what a panel shows, None if it is too much."""
    document = json.dumps([plan.document], indent=2, ensure_ascii=False, default=float)
    detail = Detail(statement, plan.as_text(), document)
    size = len(detail.statement) + len(detail.plan) + len(detail.plan_json)
    return detail if size <= MAX_SIZE else None

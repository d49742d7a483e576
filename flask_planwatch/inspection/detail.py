"""What only a panel shows of a statement."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..plan.tree import Plan

#: Characters of a detail. A longer one is not kept, and the panel shows the plan without values.
MAX_DETAIL_LENGTH = 100_000


@dataclass(frozen=True)
class Detail:
    """A statement and its plan with their values, which go with their request.

    `statement` is SQL that psql takes, nothing if the driver has no form for a value; `plan` is the
    plan as text, `plan_json` as JSON. `settings` are what psql has to run before the statement.
    """

    statement: str
    plan: str
    plan_json: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preparable:
    """A statement with `$1`, `$2` … for its values, and the types and names of these.

    `arrays` are the numbers of those that have the values of an IN list, `settings` what psql has
    to run before it. If there is none that psql takes, `refusal` says why, and the text is empty.
    """

    text: str = ""
    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    arrays: frozenset[int] = frozenset()
    refusal: str = ""
    settings: tuple[str, ...] = ()


def detail_of(statement: str, plan: Plan, settings: tuple[str, ...] = ()) -> Detail | None:
    """Return what a panel shows, None if it is too long."""
    document = json.dumps([plan.document], indent=2, ensure_ascii=False, default=float)
    detail = Detail(statement, plan.as_text(), document, settings)
    size = len(detail.statement) + len(detail.plan) + len(detail.plan_json)
    return detail if size <= MAX_DETAIL_LENGTH else None

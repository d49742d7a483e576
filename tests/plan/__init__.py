"""The pure parts, tested on what PostgreSQL 15 and 18 printed, as recorded in `recorded/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flask_planwatch.plan.schema import Column, Relation

RECORDED = Path(__file__).parent / "recorded"

#: The major versions of the servers whose words were recorded.
SERVERS = ("15", "18")


def read(name: str) -> dict[str, Any]:
    """Return one recorded document: what was asked, and what the server said."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def relation_of(*columns: Column) -> Relation:
    """Return the table `t` of the schema `public`, with these columns."""
    return Relation(
        key="public.t",
        schema="public",
        name="t",
        display="t",
        quoted_name="t",
        kind="r",
        rows=1.0,
        root="public.t",
        columns=columns,
    )


def plan_names() -> list[str]:
    """Return the names of all recorded plans, such as `hash-join-18`."""
    return sorted(path.stem for path in RECORDED.glob("*-1[58].json"))

"""The results as a table, as goals that are met or not, and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .estimate import Goal
from .statement_cost import BARE, CLOCKS, Rounds
from .variants import VARIANTS
from .workload import WORKLOADS

_PACKAGES = (
    "flask-planwatch",
    "sqlalchemy",
    "psycopg2-binary",
    "psycopg",
    "flask-sqlalchemy",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-sqlalchemy",
    "sentry-sdk",
    "flask-security-too",
    "gunicorn",
    "locust",
)


def statement_cost_table(result: Rounds, clock: str) -> str:
    """Return a table of one driver: µs added for each statement, and how sure that is."""
    rows = [["", *WORKLOADS]]
    for name, variant in VARIANTS.items():
        cells = []
        for workload in WORKLOADS:
            if name == BARE:
                cells.append(f"{result.bare(workload, clock):.1f}")
            else:
                added = result.added(workload, name, clock)
                cells.append("" if added is None else str(added))
        if any(cells):
            rows.append([variant.title, *cells])
    return "\n".join(
        [
            f"µs for each statement, and what is added to it: {result.driver}, {clock} time",
            *table(rows),
            *(f"{VARIANTS[name].title}: {why}" for name, why in result.unavailable.items()),
        ]
    )


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Return lines with aligned columns."""
    widths = [max(len(row[position]) for row in rows) for position in range(len(rows[0]))]
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([first.strip().ljust(widths[0]), *others]).rstrip()


def statement_cost_data(result: Rounds) -> dict[str, Any]:
    """Return the figures of one driver for JSON."""
    return {
        "driver": result.driver,
        "bare_us": {
            workload: {clock: result.bare(workload, clock) for clock in CLOCKS}
            for workload in WORKLOADS
        },
        "added_us": {
            workload: {
                name: {
                    clock: added._asdict()
                    for clock in CLOCKS
                    if (added := result.added(workload, name, clock))
                }
                for name in VARIANTS
                if name != BARE and name not in result.unavailable
            }
            for workload in WORKLOADS
        },
        "unavailable": result.unavailable,
        "facts": {name: facts for name, facts in result.facts.items() if facts},
    }


def write(path: Path, data: dict[str, Any], goals: Iterable[Goal], server_version: str) -> None:
    """Write all results to a file."""
    data = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "postgresql": server_version,
        "packages": dict(_versions()),
        **data,
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _versions() -> Iterable[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue

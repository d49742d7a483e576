"""Does memory grow with the number of executions?

Runs different statements in turn, with PlanWatch at its defaults, and compares the resident memory
of the process after a tenth of the executions with that after all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.types import UserDefinedType

from flask_planwatch import PlanWatch

#: Different statements, as many as PlanWatch counts for each engine.
STATEMENTS = 10_000

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Uncached(UserDefinedType[str]):
    """A type that SQLAlchemy must not cache: each execution compiles its statement anew."""

    cache_ok = False

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name in SQL."""
        return "text"


def measure(
    url: str,
    executions: int,
    *,
    first: int | None = None,
    statements: int = STATEMENTS,
    cached: bool = True,
) -> dict[str, Any]:
    """Execute so many statements; return the resident memory on the way, in bytes.

    Call it in a process of its own. The first measurement is after `first` executions, by default
    a tenth. `cached` is False for statements that SQLAlchemy compiles anew
    each time.
    """
    app, engine = Flask(__name__), sa.create_engine(url)
    planwatch = PlanWatch(app)
    planwatch.watch(engine)
    first = executions // 10 if first is None else first
    with engine.connect() as connection:
        execute = _driver_level if cached else _compiled
        for number in range(first):
            execute(connection, number % statements)
        before = resident_bytes()
        for number in range(first, executions):
            execute(connection, number % statements)
        after = resident_bytes()
    stats = planwatch.stats()
    planwatch.unwatch(engine)
    engine.dispose()
    return {
        "statements": statements,
        "executions": [first, executions],
        "resident_bytes": [before, after],
        "growth_bytes": after - before,
        "stats": stats,
    }


def resident_bytes() -> int:
    """Return the memory of this process that is in use, without garbage."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def _driver_level(connection: sa.Connection, number: int) -> None:
    connection.exec_driver_sql(f"SELECT %(v)s::int AS s{number}", {"v": number}).all()


def _compiled(connection: sa.Connection, number: int) -> None:
    value = sa.literal(f"v{number}", Uncached())
    connection.execute(sa.select(value.label(f"s{number}"))).all()


def main() -> None:
    """Print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="SQLAlchemy's URL of a database; nothing is written to it")
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, help="when to measure first: by default at a tenth")
    parser.add_argument("--statements", type=int, default=STATEMENTS)
    parser.add_argument("--uncached", action="store_true", help="statements that are not cached")
    given = parser.parse_args()
    result = measure(
        given.url,
        given.executions,
        first=given.first,
        statements=given.statements,
        cached=not given.uncached,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()

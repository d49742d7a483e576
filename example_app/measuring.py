"""How PostgreSQL runs a form of a query now, and how long that takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from sqlalchemy import Connection, Engine, event, literal, text
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.orm import Session

from .story import Form

RUNS = 20

# Of these the server itself tells the time: it has no way to a client in it, so few are enough.
SERVER_RUNS = 5

# Without what would take a part of the time that it tells.
_COUNTED = "ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON"

_PREPARED = text("""
    SELECT name, custom_plans, generic_plans FROM pg_prepared_statements
    WHERE statement = :statement AND NOT from_sql
""")


@dataclass(frozen=True)
class Preparation:
    """A statement that the driver prepared on the server, by its name there.

    The server made `custom_plans` for single executions, and took the one that it keeps for all
    values in `generic_plans` others.
    """

    name: str
    custom_plans: int
    generic_plans: int


@dataclass(frozen=True)
class Measurement:
    """How long a statement takes, and the plan that it has.

    `text` is the statement as SQLAlchemy compiled it. `client_ms` is the median of twenty runs as
    the app waits for them, `server_ms` that of five whose execution time EXPLAIN ANALYZE tells.
    `scans` says how each table is read, `plan` is what EXPLAIN prints without costs. `prepared` is
    None unless the driver prepared it.
    """

    text: str
    client_ms: float
    server_ms: float
    cost: float
    scans: tuple[str, ...]
    plan: str
    prepared: Preparation | None


def ask(engine: Engine, form: Form, times: int) -> str:
    """Send a form as the app does, watched by PlanWatch; return the statement as compiled."""
    with engine.connect() as connection:
        sent = _sent(connection)
        with Session(connection) as session:
            form.ask_earlier(session)
            for _ in range(times):
                form.ask(session)
    return str(sent[-1][2].compiled)


def measure(engine: Engine, form: Form) -> Measurement:
    """Run a form twenty times, on a connection that was asked before what the form says."""
    with engine.connect().execution_options(planwatch=False) as connection:
        sent = _sent(connection)
        with Session(connection) as session:
            form.ask_earlier(session)
            times = []
            for _ in range(RUNS):
                started = perf_counter()
                form.ask(session)
                times.append((perf_counter() - started) * 1000)
        statement, parameters, context = sent[-1]
        prepared = _prepared(connection, statement)
        if prepared:
            # The plan that the server has for it on this connection, and not any that it might.
            statement, parameters = _execute(prepared, statement, parameters, engine), {}
        counted = [
            _explain(connection, _COUNTED, statement, parameters)[0][0][0]
            for _ in range(SERVER_RUNS)
        ]
        lines = _explain(connection, "COSTS OFF", statement, parameters)
    root = counted[-1]["Plan"]
    return Measurement(
        text=str(context.compiled),
        client_ms=median(times),
        server_ms=median(run["Execution Time"] for run in counted),
        cost=root["Total Cost"],
        scans=tuple(_scans(root)),
        plan="\n".join(line for (line,) in lines),
        prepared=prepared,
    )


def _sent(connection: Connection) -> list[tuple[str, Mapping[str, object], ExecutionContext]]:
    """Return a list that fills with the statements that a connection sends."""
    sent: list[tuple[str, Mapping[str, object], ExecutionContext]] = []
    event.listen(connection, "after_cursor_execute", lambda *args: sent.append(args[2:5]))
    return sent


def _explain(
    connection: Connection, options: str, statement: str, parameters: Mapping[str, object]
) -> list[Any]:
    explained = f"EXPLAIN ({options}) {statement}"
    return list(connection.exec_driver_sql(explained, dict(parameters) or None))


def _prepared(connection: Connection, statement: str) -> Preparation | None:
    """Return what the server counts for a statement, if the driver prepared it there."""
    names = _names(statement)
    numbered = re.sub(r"%\((\w+)\)s", lambda name: f"${names.index(name[1]) + 1}", statement)
    row = connection.execute(_PREPARED, {"statement": numbered}).first()
    return Preparation(*row) if row else None


def _execute(
    prepared: Preparation, statement: str, parameters: Mapping[str, object], engine: Engine
) -> str:
    """Return the EXECUTE of a prepared statement with these parameters."""
    values = [literal(parameters[name]) for name in _names(statement)]
    written = [value.compile(engine, compile_kwargs={"literal_binds": True}) for value in values]
    arguments = f" ({', '.join(map(str, written))})" if written else ""
    return f"EXECUTE {prepared.name}{arguments}"


def _names(statement: str) -> list[str]:
    """Return the names of a statement's parameters, in the order that the driver numbers them."""
    return list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))


def _scans(node: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Yield how a plan reads each table, and within which sub-query."""
    if "Subplan Name" in node:
        # PostgreSQL 16 and before add what it returns.
        within = f"{node['Subplan Name'].partition(' (')[0]}: "
    if "Relation Name" in node:
        # A bitmap scan has its indexes further down.
        by = f" using {node['Index Name']}" if "Index Name" in node else ""
        tried = ", with a Filter" if "Filter" in node else ""
        yield f"{within}{node['Node Type']}{by} on {node['Relation Name']}{tried}"
    for child in node.get("Plans", []):
        yield from _scans(child, within)

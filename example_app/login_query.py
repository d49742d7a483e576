"""What a login asks the database, how PostgreSQL answers it, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import joinedload

from .models import User

RUNS = 20


@dataclass(frozen=True)
class Scan:
    """How PostgreSQL reads one table."""

    table: str
    node: str
    index: str | None

    @property
    def whole_table(self) -> bool:
        """Whether each row is read."""
        return "Seq Scan" in self.node

    def __str__(self) -> str:
        return f"{self.node} using {self.index}" if self.index else self.node


@dataclass(frozen=True)
class Measurement:
    """The plan of a login's query, its estimated cost, and the median time of twenty runs."""

    scans: tuple[Scan, ...]
    cost: float
    median_ms: float


def login_query(email: str, dialect: Dialect) -> tuple[str, Any]:
    """Return the SQL and the parameters that Flask-Security sends to find `email`."""
    compiled = (
        select(User)
        .options(joinedload(User.roles))
        .where(func.lower(User.email) == func.lower(email))
        .compile(dialect=dialect)
    )
    return str(compiled), compiled.params


def measure(connection: Connection, email: str) -> Measurement:
    """Plan the login's query once and run it twenty times."""
    sql, parameters = login_query(email, connection.dialect)
    ((document,),) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
    plan = document[0]["Plan"]
    return Measurement(
        scans=tuple(sorted(_scans(plan), key=lambda scan: scan.table, reverse=True)),
        cost=plan["Total Cost"],
        median_ms=median(_run(connection, sql, parameters) for _ in range(RUNS)),
    )


def _run(connection: Connection, sql: str, parameters: Any) -> float:
    started = perf_counter()
    connection.exec_driver_sql(sql, parameters).all()
    return (perf_counter() - started) * 1000


def _scans(node: dict[str, Any]) -> Iterator[Scan]:
    """Yield the scan of each table that grows with the number of users."""
    children = node.get("Plans", [])
    if node.get("Relation Name") in {"user", "roles_users"}:
        kind = f"Parallel {node['Node Type']}" if node["Parallel Aware"] else node["Node Type"]
        # A bitmap scan has its index one node further down.
        index = next((n["Index Name"] for n in [node, *children] if "Index Name" in n), None)
        yield Scan(node["Relation Name"], kind, index)
    else:
        for child in children:
            yield from _scans(child)

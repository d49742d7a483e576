"""Asks PlanWatch: an application sends a statement, and PlanWatch says what it finds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

import sqlalchemy as sa
from flask import Flask

from flask_planwatch import PlanWatch
from flask_planwatch.finding import Finding, Inspection
from flask_planwatch.signals import statement_inspected

from .servers import Database
from .statement import Statement

#: Executions of a statement, unless they take longer than this many seconds: what PlanWatch says
#: may depend on what it has seen before.
_EXECUTIONS, _SECONDS = 3, 2.0

#: Seconds after which PlanWatch is not waited for: far more than any goal allows.
_PATIENCE = 120.0

#: As PlanWatch is shipped, but that each execution is inspected.
_CONFIG = {
    "PLANWATCH_SAMPLE_INTERVAL": 0,
    "PLANWATCH_INSPECTIONS_PER_MINUTE": None,
}


@dataclass(frozen=True)
class Advised:
    """One advice: its commands, or what it says where it has none."""

    kind: str
    summary: str
    commands: tuple[str, ...]
    verdict: str
    reason: str
    cost_before: float | None
    cost_after: float | None


@dataclass(frozen=True)
class Found:
    """One finding, and its advice. `scanned` are the relations that it is about."""

    rule: str
    severity: str
    relation: str
    subject: str
    scanned: tuple[str, ...]
    sub_query: str | None
    problem: str
    advice: tuple[Advised, ...]

    def data(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Found:
        """Return what `data` returned, read from JSON."""
        advice = tuple(
            Advised(**{**one, "commands": tuple(one["commands"])}) for one in data["advice"]
        )
        return cls(**{**data, "scanned": tuple(data["scanned"]), "advice": advice})


class Adviser:
    """An application that PlanWatch watches."""

    def __init__(self, database: Database, verify: str, longest: float) -> None:
        self._app = Flask("planwatch_truth")
        self._app.config.update(_CONFIG, PLANWATCH_VERIFY=verify)
        self._planwatch = PlanWatch(self._app)
        self._engine = sa.create_engine(
            database.url.set(drivername="postgresql+psycopg2"),
            connect_args={"options": f"-c statement_timeout={round(longest * 1000)}"},
        )
        self._planwatch.watch(self._engine, self._app)
        self._fingerprints: dict[str, set[str]] = {}
        self._asked = ""

    def ask(self, statement: Statement) -> float:
        """Send a statement, and return the ms of the inspection that took PlanWatch longest."""
        self._asked = statement.name
        started, worst = monotonic(), 0.0
        with statement_inspected.connected_to(self._inspected, self._app):
            for _ in range(_EXECUTIONS):
                before = self._own_ms()
                self._send(statement)
                if not self._planwatch.flush(_PATIENCE, self._app):
                    return _PATIENCE * 1000
                worst = max(worst, self._own_ms() - before)
                if monotonic() - started > _SECONDS:
                    break
        return worst

    def warm_up(self) -> None:
        """Have PlanWatch load what its first inspection needs, once in the life of a process."""
        self.ask(Statement("warm-up", "SELECT relname FROM pg_class WHERE oid = 1259"))

    def findings(self, statement: Statement) -> list[Found]:
        """Return what PlanWatch finds in a statement, after all that it was sent."""
        fingerprints = self._fingerprints.get(statement.name, set())
        return [
            _found(finding)
            for finding in self._planwatch.findings(self._app)
            if finding.fingerprint in fingerprints
        ]

    def close(self) -> None:
        """Close the application's connections, and PlanWatch's."""
        self._planwatch.unwatch(self._engine)
        self._engine.dispose()

    def _send(self, statement: Statement) -> None:
        with self._app.app_context(), self._engine.connect() as connection:
            # One that is cancelled is looked at as well.
            with suppress(sa.exc.OperationalError):
                result = connection.execute(sa.text(statement.text), statement.parameters)
                if result.returns_rows:
                    result.all()
            connection.rollback()

    def _inspected(self, sender: Flask, inspection: Inspection) -> None:
        self._fingerprints.setdefault(self._asked, set()).add(inspection.statement.fingerprint)

    def _own_ms(self) -> float:
        return float(self._planwatch.stats(self._app)["own_ms"])


@contextmanager
def adviser(database: Database, verify: str, longest: float) -> Iterator[Adviser]:
    """Watch an application for as long as it is asked; what PlanWatch logs is not printed."""
    logger = logging.getLogger("flask_planwatch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    asked = Adviser(database, verify, longest)
    try:
        yield asked
    finally:
        asked.close()
        logger.setLevel(level)


def _found(finding: Finding) -> Found:
    return Found(
        rule=finding.rule,
        severity=str(finding.severity),
        relation=finding.relation,
        subject=finding.subject,
        scanned=finding.scanned,
        sub_query=finding.evidence.get("sub_query"),
        problem=finding.problem,
        advice=tuple(
            Advised(
                kind=str(advice.kind),
                summary=advice.summary,
                commands=advice.ddl,
                verdict=str(advice.verdict.status),
                reason=advice.verdict.reason,
                cost_before=advice.verdict.cost_before,
                cost_after=advice.verdict.cost_after,
            )
            for advice in finding.advice
        ),
    )

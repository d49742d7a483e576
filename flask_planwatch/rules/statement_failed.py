"""
statement-failed
================

What it finds
-------------

A statement that did not fail by its own fault: the server was gone or shut down, the connection
broke (``SSL SYSCALL error: EOF detected``), ``statement_timeout`` or somebody cancelled it, it
waited too long for a lock or was chosen to end a deadlock, or the server ran out of memory, disk or
connections.

Why it hurts
------------

The request that ran it failed as well. And when the database is overloaded, the statements that
fail first are seldom the innocent ones: what failed is what anybody wants explained first.

How to fix it
-------------

PlanWatch keeps the statement with its parameters, explains it as soon as the server answers again,
ahead of everything else, and tells the plan together with what other rules found in it: mostly that
is the cause. If nothing was found, look at the plan, at what else ran at that time, and at locks
that another transaction held.

When it stays silent
--------------------

- The statement failed by its own fault: wrong SQL, bad data, a broken constraint, a division by
  zero, a permission.
- A transaction could not be serialised: to try it again is part of that isolation level.
- It asked for ``NOWAIT`` and did not get its lock.
- It failed before, and succeeds now.
"""

from __future__ import annotations

from dataclasses import replace

from ..plan.evidence import Evidence, Hit, Miss, Remedy, Suspicion
from ..plan.failure import StatementError
from ..plan.schema import NO_RELATION, Relation, Schema
from ..plan.tree import Node, Plan

NAME = "statement-failed"

#: Steps of the plan that its summary names: the costliest that read a table.
MAX_STEPS = 3


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement: whether it failed, no plan tells."""
    return [_suspicion(schema.largest)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if this execution failed for a reason that means load."""
    error = evidence.error
    if error is None:
        return Miss(suspicion, "it succeeded", quiet=True)
    if not error.means_load:
        return Miss(suspicion, "it failed by its own fault", by_parameters=True, quiet=True)
    hit = _failed(suspicion, error)
    plan = evidence.plan
    facts = hit.evidence | {"plan": _summary(plan), "total_cost": plan.total_cost}
    problem = f"{hit.problem} Its plan, explained afterwards: {_summary(plan)}."
    rows = suspicion.relation.rows
    return replace(hit, problem=problem, rows=rows, evidence=facts)


def without_plan(error: StatementError) -> Hit:
    """Return what can be said of a failure that has no plan."""
    return _failed(_suspicion(NO_RELATION), error)


def _suspicion(relation: Relation) -> Suspicion:
    return Suspicion.of_statement(NAME, relation, "statement")


def _failed(suspicion: Suspicion, error: StatementError) -> Hit:
    problem = f"the statement failed: {error.meaning} ({error})."
    facts = {"error": error.name, "sqlstate": error.sqlstate}
    on = f" on {suspicion.relation.display}" if suspicion.relation.display else ""
    return Hit(
        suspicion,
        problem,
        0.0,
        facts,
        remedy=Remedy.NONE,
        what=f"Statement{on} failed",
        why=f"{error.meaning} ({error})",
    )


def _summary(plan: Plan) -> str:
    """Return a plan in one line: its cost, and the costliest steps that read a table."""
    scans = sorted(plan.scans, key=lambda scan: -scan.total_cost)[:MAX_STEPS]
    steps = ", ".join(map(_step, scans)) or plan.root.title
    return f"cost {plan.total_cost:,.0f}, {steps}"


def _step(scan: Node) -> str:
    return f"{scan.title} for {scan.rows:,.0f} rows at cost {scan.total_cost:,.0f}"

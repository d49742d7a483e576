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
fail first are often the cause: they are what you want explained first.

How to fix it
-------------

PlanWatch keeps the statement with its parameters and explains it as soon as the server answers
again, before everything else. It reports the plan together with what other rules find in it, which
is mostly the cause, and their advice: first what the planner confirmed. If nothing was found, look
at the plan, at what else ran at that time, and at locks that another transaction held.

When it stays silent
--------------------

- The statement failed by its own fault: wrong SQL, bad data, a broken constraint, a division by
  zero, a permission.
- A transaction could not be serialised: to try it again is part of that isolation level.
- It asked for ``NOWAIT`` and did not get its lock.
- It failed before, and succeeds now.
"""

from __future__ import annotations

from ..failure import StatementError
from ..plan.evidence import Evidence, Hit, Miss, Suspicion
from ..plan.schema import NO_RELATION, Relation, Schema
from ..plan.tree import Node, Plan
from ..plan.wording import Template, Words, say
from ..plan.work import Work

NAME = "statement-failed"

WORDS = Words(
    what="Statement[ on {table}] failed",
    why="{meaning} ({error})",
    problem="the statement failed: {meaning} ({error}).[ Its plan, explained afterwards: {plan}.]",
    hint="{look}",
)

_LOOK_AT_STEP = Template("look at {costliest}, its costliest step")
_LOOK_INTO_LOG = Template("look into the server's log of that time")

_PLAN = "cost {cost:number}, {steps:list}"
_STEP = "{node} for {rows:rows}[ in each of {runs:number} runs] at cost {cost:number}"

_SUCCEEDED = "it succeeded"
_OWN_FAULT = "the cause is the statement or its values, not the server"

#: Steps of the plan that its summary names: the costliest that read a table.
MAX_STEPS = 3


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement: whether it failed, no plan tells."""
    return [_suspicion(schema.largest)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if this execution failed for a reason that means load."""
    error = evidence.error
    if error is None:
        return Miss(suspicion, _SUCCEEDED, quiet=True)
    if not error.means_load:
        return Miss(suspicion, _OWN_FAULT, by_parameters=True, quiet=True)
    return _failed(suspicion, error, Work(evidence.plan, evidence.schema))


def without_plan(error: StatementError) -> Hit:
    """Return what can be said of a failure that has no plan."""
    return _failed(_suspicion(NO_RELATION), error)


def _suspicion(relation: Relation) -> Suspicion:
    return Suspicion.of_statement(NAME, relation, "statement")


def _failed(suspicion: Suspicion, error: StatementError, work: Work | None = None) -> Hit:
    facts: dict[str, object] = {"error": error.name, "sqlstate": error.sqlstate}
    if work is not None:
        facts |= {"plan": _summary(work), "total_cost": work.plan.total_cost}
    costliest = _costliest(work)[:1] if work is not None else []
    return Hit(
        suspicion,
        rows=0.0 if work is None else suspicion.relation.rows,
        evidence=facts,
        fix="none",
        **WORDS.of(
            table=suspicion.relation.display,
            meaning=error.meaning,
            error=error,
            plan=facts.get("plan"),
            look=_LOOK_AT_STEP if costliest else _LOOK_INTO_LOG,
            costliest=next((scan.title for scan in costliest), None),
        ),
    )


def _costliest(work: Work) -> list[Node]:
    """Return the steps that read a table, the costliest in all its runs first."""
    return sorted(work.plan.scans, key=lambda scan: -_cost(work, scan))


def _cost(work: Work, node: Node) -> float:
    return node.total_cost * work.runs[id(node)]


def _summary(work: Work) -> str:
    """Return a plan in one line: its cost, and the costliest steps that read a table."""
    steps = [
        say(_STEP, node=scan.title, rows=scan.rows, runs=_runs(work, scan), cost=_cost(work, scan))
        for scan in _costliest(work)[:MAX_STEPS]
    ]
    return say(_PLAN, cost=work.plan.total_cost, steps=steps or [work.plan.root.title])


def _runs(work: Work, node: Node) -> float | None:
    """Return how often a step is expected to run, None if it is once."""
    runs = work.runs[id(node)]
    return runs if runs > 1.5 else None

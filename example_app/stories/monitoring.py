"""Story 3: a monitoring query that counts the same runs again for each row.

It asks how many queued runs wait for no good reason: their account has fewer runs at work than it
may have. The sub-query that counts those is run for each queued run. The planner expects a single
one, because it takes three conditions that go together for independent.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Row, func, select
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from ..extensions import Base
from ..story import Form, Seed, Story


class Account(Base):
    """A customer, with the number of runs that may be at work at once."""

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    max_runs: Mapped[int]


class Stack(Base):
    """One environment of an account. Most have three, a few have thirty."""

    __tablename__ = "stack"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey(Account.id), index=True)
    settings: Mapped[str]


class Run(Base):
    """One deployment of a stack. Hardly any has a worker: that is, is at work now."""

    __tablename__ = "run"
    __table_args__ = (Index("ix_run_state_kind", "state", "kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    stack_id: Mapped[int] = mapped_column(ForeignKey(Stack.id), index=True)
    kind: Mapped[str]
    state: Mapped[str]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    worker_id: Mapped[int | None] = mapped_column(index=True)


QUEUED = (Run.state == "queued", Run.kind == "proposed", Run.started_at.is_(None))
OtherStack, OtherRun = aliased(Stack), aliased(Run)


def waiting_runs(session: Session) -> Row[int, datetime]:
    """Counts the account's runs at work once for each run that is queued."""
    at_work = (
        select(func.count())
        .select_from(OtherStack)
        .join(OtherRun, OtherRun.stack_id == OtherStack.id)
        .where(OtherStack.account_id == Account.id, OtherRun.worker_id.is_not(None))
        .scalar_subquery()
    )
    query = (
        select(func.count(), func.min(Run.created_at))
        .join(Stack, Stack.id == Run.stack_id)
        .join(Account, Account.id == Stack.account_id)
        .where(*QUEUED, Account.max_runs // 2 > at_work)
    )
    return session.execute(query).one()


def waiting_runs_joined(session: Session) -> Row[int, datetime]:
    """Counts the few runs at work once, for all accounts, and joins that."""
    at_work = (
        select(OtherStack.account_id, func.count().label("runs"))
        .join(OtherRun, OtherRun.stack_id == OtherStack.id)
        .where(OtherRun.worker_id.is_not(None))
        .group_by(OtherStack.account_id)
        .subquery()
    )
    query = (
        select(func.count(), func.min(Run.created_at))
        .join(Stack, Stack.id == Run.stack_id)
        .join(Account, Account.id == Stack.account_id)
        .outerjoin(at_work, at_work.c.account_id == Account.id)
        .where(*QUEUED, Account.max_runs // 2 > func.coalesce(at_work.c.runs, 0))
    )
    return session.execute(query).one()


def runs_while_all_is_quiet(session: Session) -> Row[int, datetime]:
    """A sub-query about all accounts: no row changes it, so it runs once."""
    at_work = select(func.count()).where(OtherRun.worker_id.is_not(None)).scalar_subquery()
    query = (
        select(func.count(), func.min(Run.created_at))
        .join(Stack, Stack.id == Run.stack_id)
        .join(Account, Account.id == Stack.account_id)
        .where(*QUEUED, Account.max_runs * 10 > at_work)
    )
    return session.execute(query).one()


# The five accounts with many stacks are those whose runs are queued.
_SEEDS = (
    Seed(
        "account",
        5_000,
        (
            """
            INSERT INTO account (id, max_runs)
            SELECT n, 40 FROM generate_series(:first, :last) AS n
            """,
        ),
    ),
    Seed(
        "stack",
        15_150,
        (
            """
            INSERT INTO stack (id, account_id, settings)
            SELECT n,
                   1 + CASE WHEN n <= 150 THEN n % 5
                            ELSE n % (SELECT count(*)::int FROM account) END,
                   repeat('NAME_OF_A_VARIABLE=and what it is set to ', 20)
            FROM generate_series(:first, :last) AS n
            """,
        ),
        effort=6,
    ),
    Seed(
        "run",
        150_000,
        (
            """
            INSERT INTO run (id, stack_id, kind, state, created_at, started_at, worker_id)
            SELECT n,
                   1 + CASE WHEN queued THEN n / 300 % least(150, stacks) ELSE n % stacks END,
                   CASE WHEN queued THEN 'proposed' ELSE 'tracked' END,
                   CASE WHEN queued THEN 'queued' ELSE 'finished' END,
                   created_at,
                   CASE WHEN NOT queued THEN created_at + interval '1 minute' END,
                   CASE WHEN n % 500 = 1 THEN n / 500 * 67 % 307 END
            FROM (SELECT n, n % 300 = 0 AS queued,
                         timestamp '2025-01-01' + n * interval '1 minute' AS created_at,
                         (SELECT count(*)::int FROM stack) AS stacks
                  FROM generate_series(:first, :last) AS n) AS numbered
            """,
        ),
        effort=8,
    ),
)

STORY = Story(
    name="monitoring",
    title="A sub-query that runs once for each row",
    told=(
        "For each queued run, the query of a dashboard counts the other runs of its account that "
        "are at work. The planner expects one queued run, and there are hundreds. So the "
        "estimated cost of the slow query is lower than that of the fast one."
    ),
    rules=("repeated-subplan", "row-misestimate", "bitmap-overread", "cost-mismatch"),
    tables=("account", "stack", "run"),
    seeds=_SEEDS,
    slow=Form(waiting_runs),
    twin=Form(runs_while_all_is_quiet),
    repaired=Form(waiting_runs_joined),
)

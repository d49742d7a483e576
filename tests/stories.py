"""The tables of stories 2 to 5, and each story's statements with their twins.

The rows are the same in each run, and all of them are in the sample of ANALYZE, so that the planner
says the same each time. No table has a parallel scan: plans do not depend on the server's workers.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from .databases import Database

#: The tenant with nearly all invoices, and one with a few. psycopg 3 sends smaller numbers as
#: `smallint`, whose cast to `integer` makes a generic plan dearer by the rows that are read.
HUGE, RARE = 100_001, 100_002

#: Rows that ANALYZE reads are 300 for each unit: all rows of the largest table.
STATISTICS_TARGET = 1000


class Base(DeclarativeBase):
    type_annotation_map = {
        str: sa.Text(),
        dict: JSONB(),
        datetime.datetime: sa.DateTime(timezone=True),
    }


metadata = Base.metadata


# Story 2


class Medic(Base):
    """1600 rows, seven on a page; 16 are not retired."""

    __tablename__ = "medic"

    id: Mapped[int] = mapped_column(primary_key=True)
    last_name: Mapped[str]
    state: Mapped[str]
    biography: Mapped[str]


class Trainee(Base):
    """300 rows on nine pages; three are not retired."""

    __tablename__ = "trainee"

    id: Mapped[int] = mapped_column(primary_key=True)
    last_name: Mapped[str]
    state: Mapped[str]
    biography: Mapped[str]


class Invoice(Base):
    """40 000 rows, all of one tenant but for some 13 each of three more; 2000 customers."""

    __tablename__ = "invoice"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    customer_id: Mapped[int]
    product_id: Mapped[int]
    amount: Mapped[int]


sa.Index("medic_working", Medic.last_name, postgresql_where=Medic.state != "retired")
sa.Index("trainee_working", Trainee.last_name, postgresql_where=Trainee.state != "retired")
sa.Index("invoice_tenant", Invoice.tenant_id)
sa.Index("invoice_customer", Invoice.customer_id)


# Story 3


class WorkerPool(Base):
    """200 rows, one of them public."""

    __tablename__ = "worker_pool"

    id: Mapped[int] = mapped_column(primary_key=True)
    public: Mapped[bool]


class Account(Base):
    """260 rows."""

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    max_parallelism: Mapped[int]


class Stack(Base):
    """1040 rows, four to an account; 1000 are on the public pool, the others on pools of theirs."""

    __tablename__ = "stack"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int]
    worker_pool_id: Mapped[int]


class Run(Base):
    """50 000 rows; the 5000 with a worker are on the stacks that are not on the public pool."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(primary_key=True)
    stack_id: Mapped[int]
    type: Mapped[int]
    state: Mapped[int]
    worker_id: Mapped[int | None]
    created_at: Mapped[datetime.datetime]


class Address(Base):
    """40 000 rows in 41 cities of one ZIP code each; 200 are in the smallest, `City 0`."""

    __tablename__ = "address"

    id: Mapped[int] = mapped_column(primary_key=True)
    city: Mapped[str]
    zip: Mapped[str]
    depot_id: Mapped[int]


class Delivery(Base):
    """40 000 rows in eight depots; one in a hundred has any one weight."""

    __tablename__ = "delivery"

    id: Mapped[int] = mapped_column(primary_key=True)
    depot_id: Mapped[int]
    weight: Mapped[int]


class Task(Base):
    """10 000 rows, all `done` when the statistics were taken; 300 that are `open` came later."""

    __tablename__ = "task"

    id: Mapped[int] = mapped_column(primary_key=True)
    depot_id: Mapped[int]
    state: Mapped[str]


class Queue(Base):
    """100 rows."""

    __tablename__ = "queue"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Job(Base):
    """15 000 rows in five final states, and 150 `waiting` ones; 29 850 others were deleted."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(primary_key=True)
    queue_id: Mapped[int]
    state: Mapped[str]


sa.Index("stack_account", Stack.account_id)
sa.Index("stack_pool", Stack.worker_pool_id)
sa.Index("run_stack", Run.stack_id)
sa.Index("run_worker", Run.worker_id)
sa.Index("address_zip", Address.zip)
sa.Index("delivery_depot", Delivery.depot_id)
sa.Index("task_state", Task.state)
sa.Index("job_state", Job.state)


# Story 4, and the JSON keys of story 2


class Event(Base):
    """24 000 rows, each with 16 kB of HTML that compresses well; 2% are not of type `view`."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    time: Mapped[datetime.datetime]
    data: Mapped[dict]


sa.Index("event_session", Event.data["session"].astext)
sa.Index("event_funnel", Event.user_id, Event.time, Event.data["type"].astext)


# Story 5


class Brand(Base):
    """50 rows; five are closed."""

    __tablename__ = "brand"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


class Product(Base):
    """300 000 rows; the last 12.5% are active."""

    __tablename__ = "product"

    id: Mapped[int] = mapped_column(primary_key=True)
    brand_id: Mapped[int] = mapped_column(sa.SmallInteger)
    kind: Mapped[int] = mapped_column(sa.SmallInteger)
    state: Mapped[str]


class Post(Base):
    """25 000 rows, for the last products."""

    __tablename__ = "post"

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int]
    brand_id: Mapped[int]
    active_until: Mapped[datetime.date]


sa.Index("post_product", Post.product_id)


_ROWS = {
    Medic: """
        SELECT g, 'Medic ' || g, CASE WHEN g % 100 = 0 THEN 'active' ELSE 'retired' END,
               repeat(md5(g::text), 33) FROM generate_series(1, 1600) g""",
    Trainee: """
        SELECT g, 'Trainee ' || (1000 + g), CASE WHEN g <= 3 THEN 'active' ELSE 'retired' END,
               repeat(md5(g::text), 5) FROM generate_series(1, 300) g""",
    Invoice: """
        SELECT g, CASE WHEN g % 1000 = 0 THEN 100002 + g / 1000 % 3 ELSE 100001 END,
               g * 7919::bigint % 2000, 1 + g * 7919::bigint % 300000, g % 1000
        FROM generate_series(1, 40000) g""",
    WorkerPool: "SELECT g, g = 1 FROM generate_series(1, 200) g",
    Account: "SELECT g, 10 + g % 10 FROM generate_series(1, 260) g",
    Stack: """
        SELECT g, 1 + (g - 1) / 4, CASE WHEN g <= 1000 THEN 1 ELSE g - 900 END
        FROM generate_series(1, 1040) g""",
    Run: """
        SELECT g, stack, 1 + g % 4, CASE WHEN g % 500 = 3 THEN 1 ELSE 2 END,
               CASE WHEN stack > 1000 THEN g % 300 END,
               timestamptz '2024-01-01 00:00+00' + g * interval '1 minute'
        FROM (SELECT g, CASE WHEN g % 10 = 0 THEN 1001 + g / 10 % 40
                             ELSE 1 + (g - g / 10) * 7919::bigint % 1000 END AS stack
              FROM generate_series(1, 50000) g) numbered""",
    Address: """
        SELECT g, 'City ' || city, (10000 + city)::text, city % 8
        FROM (SELECT g, CASE WHEN g % 200 = 0 THEN 0 ELSE 1 + g % 40 END AS city
              FROM generate_series(1, 40000) g) numbered""",
    Delivery: "SELECT g, g % 8, g / 8 % 100 FROM generate_series(1, 40000) g",
    Task: "SELECT g, g % 8, 'done' FROM generate_series(1, 10000) g",
    Queue: "SELECT g, 'Queue ' || g FROM generate_series(1, 100) g",
    Job: """
        SELECT g, 1 + g % 100,
               CASE WHEN g % 3 = 0
                    THEN (ARRAY['cancelled', 'done', 'expired', 'failed', 'skipped'])[1 + g / 3 % 5]
                    ELSE 'waiting' END
        FROM generate_series(1, 45000) g""",
    Event: """
        SELECT g, g * 7919::bigint % 5000,
               timestamptz '2024-01-01 00:00+00' + g * interval '1 minute',
               jsonb_build_object(
                   'type', CASE WHEN g % 50 = 0
                                THEN (ARRAY['click', 'change', 'touch'])[1 + g / 50 % 3]
                                ELSE 'view' END,
                   'session', 'S' || g,
                   'path', '/page/' || g % 300,
                   'html', repeat('<div class="c">', 1100))
        FROM generate_series(1, 24000) g""",
    Brand: """
        SELECT g, CASE WHEN g % 10 = 0 THEN 'closed' ELSE 'active' END
        FROM generate_series(1, 50) g""",
    Product: """
        SELECT g, 1 + g % 50, g % 3, CASE WHEN g > 262500 THEN 'active' ELSE 'draft' END
        FROM generate_series(1, 300000) g""",
    Post: """
        SELECT g, 275000 + g, 1 + g % 50, date '2999-01-01' FROM generate_series(1, 25000) g""",
}


def fill(database: Database) -> None:
    """Create the tables and their rows in an empty database."""
    engine = sa.create_engine(database.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect().execution_options(no_parameters=True) as connection:
        run = connection.exec_driver_sql
        run(f"SET default_statistics_target = {STATISTICS_TARGET}")
        for table in metadata.sorted_tables:
            connection.execute(sa.schema.CreateTable(table))
            # Autovacuum would mend what is stale, dead or not yet visible to all.
            options = "autovacuum_enabled = off, parallel_workers = 0"
            run(f"ALTER TABLE {table.name} SET ({options})")
        for model, rows in _ROWS.items():
            run(f"INSERT INTO {model.__tablename__} {rows}")
        for table in metadata.tables.values():
            for index in table.indexes:
                connection.execute(sa.schema.CreateIndex(index))
        # All pages must become visible to all: rows of an asynchronous commit would not be, and
        # without FREEZE, pages that the server is just writing would be passed over.
        run("VACUUM (FREEZE, ANALYZE)")
        run("DELETE FROM job WHERE state = 'waiting' AND id % 300 <> 1")
        run("ANALYZE job")


def age(url: str) -> None:
    """Age a copy of the database: the server counts no changes of what it copied."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect().execution_options(no_parameters=True) as connection:
        run = connection.exec_driver_sql
        run(f"SET default_statistics_target = {STATISTICS_TARGET}")
        run("INSERT INTO task SELECT g, g % 8, 'open' FROM generate_series(10001, 10300) g")
        run("ANALYZE job")


@dataclass(frozen=True)
class Case:
    """A statement, and what must be run on a copy of the database before."""

    statement: sa.Select[Any]
    setup: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repeated:
    """One statement on one connection: ten times with the first value, then with the second.

    `flips` tells whether PostgreSQL then has the generic plan executed for the second value,
    `harmful` whether that costs much more than the plan that it would make for this value.
    """

    build: Callable[[Any], sa.Select[Any]]
    first: Any
    then: Any
    flips: bool = True
    harmful: bool = True


# Story 2


def medics(include_retired: bool) -> sa.Select[Any]:
    wanted = sa.or_(sa.literal(include_retired), Medic.state != "retired")
    return select(Medic.id, Medic.last_name).where(wanted)


def trainees(include_retired: bool) -> sa.Select[Any]:
    wanted = sa.or_(sa.literal(include_retired), Trainee.state != "retired")
    return select(Trainee.id, Trainee.last_name).where(wanted)


def visible_amount(user: tuple[bool, int]) -> sa.Select[Any]:
    is_admin, tenant = user
    visible = sa.or_(sa.literal(is_admin), Invoice.tenant_id == tenant)
    return select(func.sum(Invoice.amount)).where(visible)


def amount_of_tenant(tenant: int) -> sa.Select[Any]:
    return select(func.sum(Invoice.amount)).where(Invoice.tenant_id == tenant)


def invoices_of_tenant(tenant: int) -> sa.Select[Any]:
    return select(Invoice).where(Invoice.tenant_id == tenant).order_by(Invoice.id).limit(20)


def active_products_of_tenant(tenant: int) -> sa.Select[Any]:
    return (
        select(func.count())
        .select_from(Invoice)
        .join(Product, Product.id == Invoice.product_id)
        .where(Invoice.tenant_id == tenant, Product.state == "active")
    )


def events_with(pair: tuple[str, str]) -> sa.Select[Any]:
    key, value = pair
    return select(Event.id).where(Event.data[key].astext == value)


def amount_of_customer(customer: int) -> sa.Select[Any]:
    return select(func.sum(Invoice.amount)).where(Invoice.customer_id == customer)


GENERIC_PLAN = {
    "optional condition": Repeated(medics, True, False),
    "optional condition, few rows": Repeated(trainees, False, False),
    "optional condition, skewed": Repeated(visible_amount, (False, HUGE), (False, RARE)),
    "skewed parameter, join": Repeated(active_products_of_tenant, HUGE, RARE),
    "JSON key": Repeated(events_with, ("path", "/page/7"), ("session", "S7")),
    # Twins
    "only one value": Repeated(medics, False, False, flips=False),
    "rare value first": Repeated(visible_amount, (False, RARE), (False, RARE), flips=False),
    # LIMIT is a parameter too: the generic plan is made for a tenth of all rows.
    "skewed parameter, LIMIT": Repeated(invoices_of_tenant, HUGE, RARE, flips=False),
    "skewed parameter, same index": Repeated(amount_of_tenant, HUGE, RARE, harmful=False),
    "uniform parameter": Repeated(amount_of_customer, 1, 2, harmful=False),
}


# Story 3

other_stack, other_run = aliased(Stack, name="other_stack"), aliased(Run, name="other_run")

_active = (
    select(func.count())
    .select_from(other_stack)
    .join(other_run, other_run.stack_id == other_stack.id)
    .where(other_run.worker_id.is_not(None))
)
_active_of_account = _active.where(
    other_stack.account_id == Account.id, other_stack.worker_pool_id == WorkerPool.id
).scalar_subquery()
_active_by_account = (
    _active.add_columns(other_stack.account_id, other_stack.worker_pool_id)
    .group_by(other_stack.account_id, other_stack.worker_pool_id)
    .subquery("active")
)
_pending = (
    select(func.count(), func.max(Run.created_at))
    .join(Stack, Stack.id == Run.stack_id)
    .join(WorkerPool, WorkerPool.id == Stack.worker_pool_id)
    .join(Account, Account.id == Stack.account_id)
    .where(WorkerPool.public, Run.type.in_([1, 4]), Run.state == 1, Run.worker_id.is_(None))
)

pending_runs = _pending.where(Account.max_parallelism // 2 > _active_of_account)
pending_runs_joined = _pending.outerjoin(
    _active_by_account,
    sa.and_(
        _active_by_account.c.account_id == Account.id,
        _active_by_account.c.worker_pool_id == WorkerPool.id,
    ),
).where(Account.max_parallelism // 2 > func.coalesce(_active_by_account.c.count, 0))

SUB_QUERY = {
    "slow": Case(pending_runs),
    "fast": Case(pending_runs_joined),
    "indexed": Case(
        pending_runs, ("CREATE INDEX run_active ON run (stack_id) WHERE worker_id IS NOT NULL",)
    ),
    # Twins
    "InitPlan": Case(
        select(Run.id).where(Run.stack_id == select(func.max(Stack.id)).scalar_subquery())
    ),
    "hashed SubPlan": Case(
        select(Stack.id).where(
            Stack.id.not_in(select(Run.stack_id).where(Run.worker_id.is_not(None)))
        )
    ),
    "few loops": Case(
        select(
            Account.id,
            select(func.count()).where(Stack.account_id == Account.id).scalar_subquery(),
        ).where(Account.id <= 5)
    ),
}

heavy_for_city = (
    select(func.count())
    .select_from(Address)
    .join(Delivery, Delivery.depot_id == Address.depot_id)
    .where(Address.city == "City 0", Address.zip == "10000", Delivery.weight == 99)
)
heavy_for_open_tasks = (
    select(func.count())
    .select_from(Task)
    .join(Delivery, Delivery.depot_id == Task.depot_id)
    .where(Task.state == "open", Delivery.weight == 99)
)

MISESTIMATE = {
    "correlated columns": Case(heavy_for_city),
    "correlated columns, mended": Case(
        heavy_for_city,
        ("CREATE STATISTICS address_city_zip ON city, zip FROM address", "ANALYZE address"),
    ),
    "stale statistics": Case(heavy_for_open_tasks),
    "stale statistics, mended": Case(heavy_for_open_tasks, ("ANALYZE task",)),
}

waiting_jobs = select(func.count()).select_from(Job).where(Job.state == "waiting")
waiting_jobs_by_queue = select(
    Queue.name, waiting_jobs.where(Job.queue_id == Queue.id).scalar_subquery()
)

DEAD_ENTRIES = {
    "once": Case(waiting_jobs),
    "once, mended": Case(waiting_jobs, ("VACUUM job",)),
    "repeated": Case(waiting_jobs_by_queue),
    "repeated, mended": Case(waiting_jobs_by_queue, ("VACUUM job",)),
}


# Story 4

_PARTIAL = (
    "CREATE INDEX event_effort ON event (time, user_id) "
    "WHERE (data ->> 'type') IN ('click', 'change', 'touch')"
)
_TOUCH_EACH_PAGE = "UPDATE event SET user_id = user_id WHERE id % 10 = 0"

effort = select(Event.user_id, Event.time).where(
    Event.data["type"].astext.in_(["click", "change", "touch"])
)

INDEX_ONLY = {
    "slow": Case(effort),
    "fast": Case(effort, (_PARTIAL,)),
    # Twins
    "selects the column too": Case(effort.add_columns(Event.data), (_PARTIAL,)),
    "cold": Case(effort, (_PARTIAL, _TOUCH_EACH_PAGE)),
    "cold, and the planner knows": Case(effort, (_PARTIAL, _TOUCH_EACH_PAGE, "ANALYZE event")),
    "cold, without the index": Case(effort, (_TOUCH_EACH_PAGE, "ANALYZE event")),
    "cold, mended": Case(effort, (_PARTIAL, _TOUCH_EACH_PAGE, "VACUUM event")),
    "subset of the list": Case(
        select(Event.user_id, Event.time).where(Event.data["type"].astext.in_(["click", "change"])),
        (_PARTIAL,),
    ),
}


# Story 5

feed = select(Product).where(Product.id >= 1).order_by(Product.id).limit(100)
active_feed = feed.where(Product.state == "active")
posted_feed = feed.join(Brand, Brand.id == Product.brand_id).where(
    Brand.status == "active",
    sa.exists().where(
        Post.product_id == Product.id,
        Post.brand_id == Product.brand_id,
        Post.active_until > func.now(),
    ),
)

LIMIT = {
    "slow": Case(active_feed),
    "fast": Case(active_feed, ("CREATE INDEX product_state ON product (state, id)",)),
    "slow join": Case(posted_feed),
    "bounded join": Case(posted_feed.where(Product.id < 101).limit(None)),
    # Twins
    "no filter": Case(feed),
    "a third passes": Case(feed.where(Product.kind == 1)),
}

"""Story 2: a filter that may be left out, and one plan for both ways.

psycopg 3 prepares a statement on the server once a connection has run it five times. After five
more, PostgreSQL may settle on one plan for all values, for as long as the connection lives. A plan
that must also serve NULL, which stands for all customers, cannot use the index on `customer`.
"""

from __future__ import annotations

from sqlalchemy import Row, String, bindparam, func, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from ..extensions import PSYCOPG, Base
from ..story import Form, Seed, Story


class Ticket(Base):
    """Some minutes of work for a customer."""

    __tablename__ = "ticket"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(index=True)
    minutes: Mapped[int]


def time_spent(session: Session, customer: str | None) -> Row[int, int]:
    """One statement for all customers, which is None, and for a single one."""
    wanted = bindparam("customer", customer, String)
    query = select(func.count(), func.sum(Ticket.minutes)).where(
        or_(wanted.is_(None), Ticket.customer == wanted)
    )
    return session.execute(query).one()


def time_spent_by_need(session: Session, customer: str | None) -> Row[int, int]:
    """Two statements: the condition is there only if it is needed."""
    query = select(func.count(), func.sum(Ticket.minutes))
    if customer is not None:
        query = query.where(Ticket.customer == customer)
    return session.execute(query).one()


_SEEDS = (
    Seed(
        "ticket",
        1_500_000,
        (
            """
            INSERT INTO ticket (id, customer, minutes)
            SELECT n, 'customer ' || n % 5000, 5 + n % 56
            FROM generate_series(:first, :last) AS n
            """,
        ),
        effort=3,
    ),
)

_CUSTOMER = "customer 42"

# The first five are not prepared yet, and the next five have plans of their own. Then PostgreSQL
# compares: what it costs to sum up all tickets, on average, or a plan that is kept.
_EARLIER = ((_CUSTOMER,), *[(None,)] * 10)

STORY = Story(
    name="optional-filter",
    title="An optional filter, and one plan for all values",
    told=(
        "One statement adds up the tickets of all customers or of one customer, depending on a "
        "parameter. After psycopg 3 has prepared it, PostgreSQL uses one plan for both. From then "
        "on, this connection reads all tickets to find the few of one customer."
    ),
    rules=("generic-plan",),
    tables=("ticket",),
    seeds=_SEEDS,
    slow=Form(time_spent, (_CUSTOMER,), earlier=_EARLIER, bind=PSYCOPG),
    # The very same through psycopg2, which never prepares.
    twin=Form(time_spent, (_CUSTOMER,)),
    repaired=Form(time_spent_by_need, (_CUSTOMER,), earlier=_EARLIER, bind=PSYCOPG),
)

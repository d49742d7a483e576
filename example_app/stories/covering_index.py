"""Story 4: an index that holds all that a query needs, and is not used.

PostgreSQL takes a query for one that needs the column `data` when it only needs `data ->> 'type'`,
which the index holds. An index that has the condition itself as its predicate shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Index, Row, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Session, mapped_column

from ..extensions import Base
from ..story import Form, Seed, Story


class Event(Base):
    """What a visitor did, with all that the browser told of it in `data`."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int]
    at: Mapped[datetime]
    actions: Mapped[int]
    seconds: Mapped[int]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)


Index(
    "ix_event_covering",
    Event.step,
    Event.at,
    Event.actions,
    Event.seconds,
    Event.data["type"].astext,
)


def effort_of_each_step(session: Session) -> Sequence[Row[int, int, int]]:
    """The index holds all of this, and the type as an expression."""
    query = (
        select(Event.step, func.sum(Event.actions), func.sum(Event.seconds))
        .where(Event.data["type"].astext.in_(["click", "change", "touch"]))
        .group_by(Event.step)
    )
    return session.execute(query).all()


def effort_of_one_step(session: Session) -> Row[int, int]:
    """The same columns by a condition on a column: an Index Only Scan."""
    query = select(func.sum(Event.actions), func.sum(Event.seconds)).where(Event.step == 3)
    return session.execute(query).one()


_SEEDS = (
    Seed(
        "event",
        500_000,
        (
            """
            INSERT INTO event (id, step, at, actions, seconds, data)
            SELECT n, n % 10, timestamp '2025-01-01' + n * interval '7 seconds', n % 7, n % 301,
                   jsonb_build_object(
                       'type', CASE n % 100 WHEN 0 THEN 'click' WHEN 1 THEN 'change'
                                            WHEN 2 THEN 'touch' ELSE 'view' END,
                       'page', 'https://shop.example.com/products/' || n % 5000,
                       'title', repeat('All that you need ', 5),
                       'referrer', 'https://search.example.com/', 'language', 'en', 'zoom', 100,
                       'browser', repeat('Some browser ', 5)
                   )
            FROM generate_series(:first, :last) AS n
            """,
        ),
        effort=6,
    ),
)

STORY = Story(
    name="covering-index",
    title="An index that almost covers the query",
    told=(
        "An index holds everything that this query needs, with the type of the event as an "
        "expression. But PostgreSQL reads the whole table, because it believes that it needs the "
        "document that contains the type."
    ),
    rules=("index-only-blocked",),
    tables=("event",),
    seeds=_SEEDS,
    slow=Form(effort_of_each_step),
    twin=Form(effort_of_one_step),
)

"""Story 5: a feed whose LIMIT makes it slower.

To stop after 20 rows, PostgreSQL walks along the primary key and tries each product. It expects
the active ones to be spread evenly; they are all at the far end.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Row, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from ..extensions import Base
from ..story import Form, Seed, Story


class Product(Base):
    """Something to sell. Only the latest ones are still active."""

    __tablename__ = "product"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    title: Mapped[str]


def first_active_products(session: Session) -> Sequence[Row[int, str]]:
    """One product in fifty is active: PostgreSQL expects to read a thousand to find 20."""
    query = (
        select(Product.id, Product.title)
        .where(Product.state == "active")
        .order_by(Product.id)
        .limit(20)
    )
    return session.execute(query).all()


def first_products(session: Session) -> Sequence[Row[int, str]]:
    """The same without the condition: PostgreSQL stops after 20 rows."""
    query = select(Product.id, Product.title).order_by(Product.id).limit(20)
    return session.execute(query).all()


_SEEDS = (
    Seed(
        "product",
        1_200_000,
        (
            """
            INSERT INTO product (id, state, title)
            SELECT n, CASE WHEN n > :rows * 0.98 THEN 'active' ELSE 'archived' END, 'Product ' || n
            FROM generate_series(:first, :last) AS n
            """,
        ),
    ),
)

STORY = Story(
    name="feed",
    title="A LIMIT that makes the query slower",
    told=(
        "A feed shows the first 20 active products, in the order of their ids. PostgreSQL reads "
        "along the primary key and expects to find 20 soon, but all active products are at its "
        "end."
    ),
    rules=("limit-trap", "cost-mismatch"),
    tables=("product",),
    seeds=_SEEDS,
    slow=Form(first_active_products),
    twin=Form(first_products),
)

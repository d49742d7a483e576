"""Story 1: a login that reads every user and every role.

Flask-Security looks a user up by `lower(email)`, which the unique index on `email` cannot serve,
and joins the table of roles, which has no index at all.
"""

from __future__ import annotations

from datetime import datetime

from flask_security import RoleMixin, UserMixin, hash_password
from sqlalchemy import Column, ForeignKey, Integer, String, Table, func, select
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from ..extensions import Base
from ..story import Form, Seed, Story

DEMO_EMAIL = "user000042@example.com"
DEMO_PASSWORD = "correct horse battery"

# As in many Flask-Security apps: neither a primary key nor an index.
roles_users = Table(
    "roles_users",
    Base.metadata,
    Column("user_id", Integer, ForeignKey("user.id")),
    Column("role_id", Integer, ForeignKey("role.id")),
)


class Role(Base, RoleMixin):
    """What a user may do."""

    __tablename__ = "role"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    description: Mapped[str | None] = mapped_column(String(255))


class User(Base, UserMixin):
    """Somebody who logs in. The unique index on `email` cannot serve `lower(email) = …`."""

    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(255), unique=True)
    password: Mapped[str | None] = mapped_column(String(255))
    active: Mapped[bool]
    confirmed_at: Mapped[datetime | None]
    fs_uniquifier: Mapped[str] = mapped_column(String(64), unique=True)
    roles: Mapped[list[RoleMixin]] = relationship(Role, secondary=roles_users)


def user_of_login(session: Session, email: str) -> User | None:
    """What Flask-Security asks at a login: an address may be in any case."""
    query = (
        select(User)
        .options(joinedload(User.roles))
        .where(func.lower(User.email) == func.lower(email))
    )
    return session.scalars(query).unique().one_or_none()


def user_by_address(session: Session, email: str) -> User | None:
    """The same user by the exact address, which the unique index serves."""
    return session.scalars(select(User).where(User.email == email)).one_or_none()


_SEEDS = (
    Seed(
        "user",
        200_000,
        (
            """
            INSERT INTO role (id, name) VALUES (1, 'reader'), (2, 'editor'), (3, 'admin')
            ON CONFLICT DO NOTHING
            """,
            """
            INSERT INTO "user" (id, email, password, active, confirmed_at, fs_uniquifier)
            SELECT n, 'user' || lpad(n::text, 6, '0') || '@example.com', :password, true,
                   now() - n * interval '1 minute', replace(gen_random_uuid()::text, '-', '')
            FROM generate_series(:first, :last) AS n
            """,
            """
            INSERT INTO roles_users (user_id, role_id)
            SELECT n, 1 + n % 3 FROM generate_series(:first, :last) AS n
            """,
        ),
        # Hashing each password on its own would take minutes.
        values=lambda: {"password": hash_password(DEMO_PASSWORD)},
        # Three indexes, two of them on long texts, and the foreign keys of a second table.
        effort=16,
    ),
)

STORY = Story(
    name="login",
    title="A login that reads every user",
    told=(
        "Flask-Security looks for lower(email), which the unique index on email cannot serve, and "
        "joins the roles of users, a table without any index. Each login reads both tables "
        "completely, which the code does not show."
    ),
    rules=("functional-predicate", "missing-index"),
    tables=("user", "roles_users"),
    seeds=_SEEDS,
    slow=Form(user_of_login, (DEMO_EMAIL,)),
    twin=Form(user_by_address, (DEMO_EMAIL,)),
    sent_by="security.login",
)

"""Which Transaction the connection of a driver gets."""

from __future__ import annotations

from typing import Any

from sqlalchemy.pool import PoolProxiedConnection

from .client_side import Psycopg2Transaction
from .drivers import AsyncpgTransaction, Call, DriverTransaction, PsycopgTransaction
from .transaction import Transaction


def transaction_on(connection: PoolProxiedConnection, dialect: Any, call: Call) -> Transaction:
    """Return the Transaction of a driver's connection; `dialect` is SQLAlchemy's.

    The connection is in the driver's AUTOCOMMIT mode, so that only PlanWatch's own BEGIN begins.
    """
    return _KINDS[dialect.driver](connection, dialect, call)


_KINDS: dict[str, type[DriverTransaction]] = {
    "psycopg2": Psycopg2Transaction,
    "psycopg": PsycopgTransaction,
    "asyncpg": AsyncpgTransaction,
}

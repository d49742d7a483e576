"""How much processor time a server has used, its ended processes included."""

from __future__ import annotations

import psutil
import sqlalchemy as sa


def postmaster_of(url: sa.URL) -> psutil.Process:
    """Return the process that all others of a PostgreSQL on this machine are children of."""
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg2"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return psutil.Process(connection.scalar(sa.func.pg_backend_pid())).parent()


def processor_seconds(parent: psutil.Process) -> float:
    """Return the user and system time of a process and its children so far, in seconds.

    The system adds a child's time to its parent's account when the child has ended.
    """
    while True:
        try:
            running = [child.cpu_times()[:2] for child in parent.children()]
        except psutil.NoSuchProcess:
            # It ended just now, and is in its parent's account the next time.
            continue
        return float(sum(map(sum, running)) + sum(parent.cpu_times()[:4]))

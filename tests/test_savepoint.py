"""What a savepoint of PlanWatch's does to its transaction, with each driver."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_planwatch.failure import ServerError
from flask_planwatch.finding import SkipReason
from flask_planwatch.server.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture(params=["psycopg2", "psycopg", "asyncpg"])
def transaction(database, request):
    url = database.url_for(request.param)
    if request.param == "asyncpg":
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(url, poolclass=sa.NullPool).sync_engine
    else:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
    session = Session(engine, url=None, statement_timeout_ms=9000, lock_timeout_ms=9000)
    try:
        with session.transaction(own_state=True) as transaction:
            yield transaction
    finally:
        session.close()


def work_mem(transaction):
    ((value,),) = transaction.fetch("SELECT current_setting('work_mem')")
    return value


def reason_of_failure(transaction, name, *commands):
    """Run commands behind a savepoint; return why they failed."""

    def block():
        with transaction.savepoint(name):
            for command in commands:
                transaction.run(command)

    with pytest.raises(ServerError) as raised:
        block()
    return raised.value.reason


def test_what_the_block_did_stays(transaction):
    with transaction.savepoint("here"):
        transaction.run("SET LOCAL work_mem = '777kB'")
    assert work_mem(transaction) == "777kB"
    with pytest.raises(ServerError):
        transaction.run("RELEASE SAVEPOINT here")


def test_what_a_refused_block_did_is_undone(transaction):
    before = work_mem(transaction)
    commands = "SET LOCAL work_mem = '777kB'", "SELECT * FROM no_such_table"
    assert reason_of_failure(transaction, "here", *commands) is SkipReason.NOT_VISIBLE
    assert work_mem(transaction) == before


def test_a_refused_block_leaves_the_block_around_it(transaction):
    with transaction.savepoint("around"):
        transaction.run("SET LOCAL work_mem = '777kB'")
        commands = "SET LOCAL work_mem = '888kB'", "SELECT * FROM no_such_table"
        assert reason_of_failure(transaction, "within", *commands) is SkipReason.NOT_VISIBLE
    assert work_mem(transaction) == "777kB"


def test_a_lost_connection_is_told(transaction):
    command = "SELECT pg_terminate_backend(pg_backend_pid())"
    assert reason_of_failure(transaction, "here", command) is SkipReason.CONNECTION_LOST


def test_a_transaction_that_was_left_is_told(transaction):
    commands = "ROLLBACK", "SELECT * FROM no_such_table"
    assert reason_of_failure(transaction, "here", *commands) is SkipReason.CONNECTION_LOST

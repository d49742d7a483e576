"""On the application's connections PlanWatch is not there: not a byte more, no other state."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from contextlib import contextmanager, suppress
from itertools import count
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event, func
from sqlalchemy.dialects.postgresql import _psycopg_common
from sqlalchemy.ext.asyncio import create_async_engine

from flask_planwatch import PlanWatch
from flask_planwatch.server.connecting import listeners

from .models import Badge, User

pytestmark = [pytest.mark.slow, pytest.mark.versions]

LOGIN = sa.select(User.id).where(func.lower(User.email) == sa.bindparam("email"))

#: Hooks after which the state of a transaction is compared with that before them.
HOOKS = (
    "after_cursor_execute",
    "commit",
    "rollback",
    "savepoint",
    "rollback_savepoint",
    "release_savepoint",
)

#: SQLAlchemy's names of cursors on the server: where they lie in memory, and a number.
NAME = re.compile(rb"c_[0-9a-f]+_[0-9a-f]+")

#: What PlanWatch calls itself on its own connections.
OWN = b"flask-planwatch"


class Relay:
    """Passes connections on to a server, and keeps what each client sent."""

    def __init__(self, url: sa.URL) -> None:
        self.sent: list[bytearray] = []
        self._target = url
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _connect(self) -> socket.socket:
        host = self._target.host or str(self._target.query.get("host", ""))
        port = self._target.port or 5432
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server, kept = self._connect(), bytearray()
                self.sent.append(kept)
                for pair in ((client, server, kept), (server, client, None)):
                    thread = threading.Thread(target=self._pass_on, args=pair, daemon=True)
                    thread.start()
                    self._threads.append(thread)

    def _pass_on(self, source: socket.socket, target: socket.socket, kept: bytearray | None):
        with suppress(OSError):
            while data := source.recv(65536):
                if kept is not None:
                    kept += data
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def all_sent(self) -> list[bytes]:
        """Return what each client but PlanWatch sent, once all of them have gone."""
        for thread in self._threads:
            thread.join(240)
            assert not thread.is_alive()
        return [NAME.sub(b"", bytes(one)) for one in self.sent if OWN not in one]

    def close(self) -> None:
        self._listener.close()


@contextmanager
def relayed(url: str):
    """Yield the URL of a relay to a server, and the relay."""
    there = sa.make_url(url)
    relay = Relay(there)
    try:
        here = there.set(host="127.0.0.1", port=relay.port, query={})
        yield here.render_as_string(hide_password=False), relay
    finally:
        relay.close()


def state_of(connection: sa.Connection) -> object:
    return connection.connection.dbapi_connection.info.transaction_status


def work(engine: sa.Engine, states: list) -> None:
    """Do what an app may do; `states` gets the connection's before and after PlanWatch's hooks."""
    before: dict[str, object] = {}
    for name in HOOKS:

        def note(connection, *_, name=name):
            before[name] = state_of(connection)

        def compare(connection, *_, name=name):
            states.append((name, before[name], state_of(connection)))

        event.listen(engine, name, note, insert=True)
        event.listen(engine, name, compare)
    with engine.connect() as connection:
        # Often enough for psycopg to prepare it, and for PostgreSQL to choose.
        for number in range(14):
            connection.execute(LOGIN, {"email": f"user{number}@example.com"}).all()
            connection.commit()
        connection.execute(sa.insert(Badge).values(id=9000, owner="x"))
        savepoint = connection.begin_nested()
        with pytest.raises(sa.exc.DBAPIError):
            connection.exec_driver_sql("SELECT 1 / 0 FROM badge")
        savepoint.rollback()
        connection.begin_nested().commit()
        connection.exec_driver_sql("SET LOCAL search_path = public")
        connection.execute(LOGIN, {"email": "x"}).all()
        connection.rollback()
        with pytest.raises(sa.exc.DBAPIError):
            connection.exec_driver_sql("SELECT nonsense FROM badge")
        connection.rollback()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for number in range(8):
            connection.execute(LOGIN, {"email": f"user{number}@example.com"}).all()
    with engine.connect().execution_options(stream_results=True) as connection:
        connection.execute(LOGIN, {"email": "x"}).all()


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("debug", [False, True])
def test_not_a_byte_more_is_sent(fresh_story, driver, debug, monkeypatch):
    # The listeners of this test look at the driver's connections, and set nothing there.
    monkeypatch.setattr(listeners, "OBSERVERS", listeners.OBSERVERS | {"tests"})
    # A message begins with its length, and so tells that of a cursor's name.
    monkeypatch.setattr(_psycopg_common, "_server_side_id", count(0x100).__next__)
    sent, states = {}, {}
    for watched in (False, True):
        states[watched] = []
        with relayed(fresh_story.url_for(driver)) as (url, relay):
            app = Flask("tests.app")
            app.debug = debug
            app.config.update(
                SQLALCHEMY_DATABASE_URI=url,
                PLANWATCH_DATABASE_URL=fresh_story.url,
                PLANWATCH_SAMPLE_INTERVAL=0,
                PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
            )
            db = SQLAlchemy(app)
            planwatch = PlanWatch(app) if watched else None
            with app.test_request_context("/"):
                work(db.engine, states[watched])
                if planwatch is not None:
                    assert planwatch.flush(120)
                    stats = planwatch.stats()
                    assert stats["inspected"] > 0
                    assert stats["errors"] == 0
                    planwatch.unwatch(db.engine)
                db.engine.dispose()
            sent[watched] = relay.all_sent()
    assert sent[True] == sent[False]
    assert len(sent[True]) == 1
    assert len(sent[True][0]) > 1000
    assert states[True] == states[False]
    assert all(one == other for _, one, other in states[True])


def names():
    """Return a function that names what asyncpg prepares; PlanWatch's connection has its own."""
    numbers, own = count(1), threading.get_ident()
    return lambda: f"p{next(numbers)}" if threading.get_ident() == own else f"q{uuid4().hex}"


@pytest.mark.skipif(
    tuple(map(int, asyncpg.__version__.split(".")[:2])) < (0, 30),
    reason="before 0.30, it numbers its own questions throughout the process",
)
def test_not_a_byte_more_is_sent_by_asyncpg(fresh_story):
    async def ask(engine):
        async with engine.connect() as connection:
            for number in range(8):
                (await connection.execute(LOGIN, {"email": f"user{number}@example.com"})).all()
                await connection.commit()
            with pytest.raises(sa.exc.DBAPIError):
                await connection.execute(sa.text("SELECT 1 / 0 FROM badge"))
            await connection.rollback()
        await engine.dispose()

    sent = {}
    for watched in (False, True):
        with relayed(fresh_story.url_for("asyncpg")) as (url, relay):
            app = Flask("tests.app")
            app.debug = True
            options = {"prepared_statement_name_func": names()}
            planwatch, engine = PlanWatch(app), create_async_engine(url, connect_args=options)
            if watched:
                planwatch.watch(engine, app)
            asyncio.run(ask(engine))
            if watched:
                assert planwatch.flush(120, app)
                assert planwatch.stats(app)["captured"] > 8
                planwatch.unwatch(engine, app)
            sent[watched] = relay.all_sent()
    assert sent[True] == sent[False]
    assert len(sent[True]) == 1

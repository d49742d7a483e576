"""What reaches the server of PlanWatch's, whatever stands in the application's texts and values."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from flask_planwatch import PlanWatch, watched_engine
from flask_planwatch.failure import ServerError
from flask_planwatch.server.explain import Query, explain
from flask_planwatch.server.session import Session

from .. import servers
from .own_server import own_server

pytestmark = [pytest.mark.slow, pytest.mark.versions]

DRIVERS = ("psycopg2", "psycopg", "asyncpg")

#: What SQLAlchemy and the drivers ask by themselves, on a new connection or of an unknown type.
THEIR_OWN = re.compile(
    r"\s*(?:select pg_catalog.version\(\)|select current_schema\(\)|"
    r"show (?:standard_conforming_strings|transaction isolation level)|"
    r"BEGIN|ROLLBACK|(?:SAVEPOINT|RELEASE) \"_pg3_|"
    r"SELECT\s+(?:t\.oid|t\.typname|typname|current_setting\('jit'\)|set_config\('jit')|"
    r"WITH RECURSIVE typeinfo_tree)",
    re.IGNORECASE,
)

#: Who ran a command that wrote, and what PlanWatch's role would need to write it.
CANARY = (
    "CREATE TABLE canary (who text DEFAULT session_user)",
    "CREATE ROLE watcher LOGIN",
    "GRANT ALL ON ALL TABLES IN SCHEMA public TO watcher",
    "GRANT ALL ON SCHEMA public TO watcher",
)

WRITE = "INSERT INTO canary DEFAULT VALUES"

#: Pieces of SQL that begin, end or hide something, and one that writes.
PIECES = (
    *("'", "''", '"', "$$", "$a$", "--", "/*", "*/", "/* /* */", ";", "; ", "%", "%%", "%s"),
    *("%(x)s", "\\", "\\'", "E'", "\n", "\r\n", "(", ")", "))", "$1", ":x", "\x00", "x", " ", "é"),
    *(f"; COMMIT; {WRITE}; --", f") ; COMMIT; {WRITE}; SELECT (1", f"'; COMMIT; {WRITE}; --"),
    *(f"\n; COMMIT; {WRITE}; ", f"*/; COMMIT; {WRITE}; /*", f"$$; COMMIT; {WRITE}; SELECT $$"),
    "; ROLLBACK; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; ",
    "UPDATE badge SET owner = 'x'",
)

hostile = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


#: Ways to a statement that holds a hostile text: as SQL that is sent as it is, or as a value.
FORMS = {
    "after a statement": lambda text: f"SELECT owner FROM badge WHERE id = 1 {text}",
    "alone": lambda text: f"SELECT {text}",
    "in a comment": lambda text: f"SELECT owner /* {text} */ FROM badge WHERE id = 1",
    "in a comment to the end": lambda text: f"SELECT owner FROM badge WHERE id = 1 -- {text}",
    "in a comment of a line": lambda text: f"SELECT owner -- {text}\nFROM badge WHERE id = 1",
    "in a string": lambda text: f"SELECT owner FROM badge WHERE owner = {quoted(text)}",
    "in a string with escapes": lambda text: f"SELECT * FROM badge WHERE owner = E{quoted(text)}",
    "in dollars": lambda text: f"SELECT owner FROM badge WHERE owner = $q${text}$q$",
    "as a name": lambda text: 'SELECT owner AS "{}" FROM badge'.format(text.replace('"', '""')),
    "a write": lambda text: f"UPDATE badge SET owner = {quoted(text)} WHERE id = 1",
    "a write after a statement": lambda text: f"UPDATE badge SET owner = 'x' WHERE id = 1 {text}",
    "a value": lambda text: (sa.text("SELECT id FROM badge WHERE owner = :x"), {"x": text}),
    "two values": lambda text: (
        sa.text("SELECT id FROM badge WHERE owner IN (:x, :y)"),
        {"x": text, "y": text[::-1]},
    ),
    "a value beside a comment": lambda text: (
        sa.text("SELECT id FROM badge WHERE owner = :x -- it's; the end"),
        {"x": text},
    ),
    "a list": lambda text: (
        sa.text("SELECT id FROM badge WHERE owner = ANY (:x)"),
        {"x": [text, "y"]},
    ),
    "a setting": lambda text: (
        sa.text("SELECT set_config('app.text', :x, false)"),
        {"x": text},
    ),
}


@pytest.fixture(scope="module")
def server():
    with own_server(log_statement="all", log_line_prefix="\x01%u\x01") as server:
        server.execute(*CANARY)
        yield server


class App:
    """An app that runs what it is given, while PlanWatch connects as a role of its own."""

    def __init__(self, server, driver, **config):
        self.server = server
        app = Flask("tests.app")
        app.config.update(
            PLANWATCH_SAMPLE_INTERVAL=0, PLANWATCH_INSPECTIONS_PER_MINUTE=None, **config
        )
        self.planwatch = PlanWatch(app)
        self.app = app
        self.loop = asyncio.new_event_loop() if driver == "asyncpg" else None
        make = create_async_engine if self.loop else sa.create_engine
        self.engine = make(server.url(driver))
        self.planwatch.watch(self.engine, app)

    def run(self, *statements):
        """Run statements on one connection, or what the server makes of them, and wait."""
        if self.loop is not None:
            self.loop.run_until_complete(self._run(statements))
        else:
            with self.engine.connect() as connection:
                for statement in statements:
                    self._execute(connection, statement)
        assert self.planwatch.flush(120, self.app)

    async def _run(self, statements):
        async with self.engine.connect() as connection:
            for statement in statements:
                await connection.run_sync(self._execute, statement)

    @staticmethod
    def _execute(connection, statement):
        try:
            if isinstance(statement, str):
                given = connection.execution_options(no_parameters=True)
                given.exec_driver_sql(statement)
            else:
                connection.execute(*statement)
        except (sa.exc.DBAPIError, ValueError):
            # The application's own trouble; a NUL is nobody's text.
            pass

    def close(self):
        self.planwatch.unwatch(self.engine, self.app)
        if self.loop is not None:
            self.loop.run_until_complete(self.engine.dispose())
            self.loop.close()
        else:
            self.engine.dispose()


@pytest.fixture(params=DRIVERS)
def driver(request):
    return request.param


@contextmanager
def app_on(server, driver, monkeypatch):
    """An app on a server, where PlanWatch connects as `watcher`."""
    url = sa.make_url(server.url(user="watcher"))
    monkeypatch.setattr(
        watched_engine,
        "Session",
        lambda engine, **given: Session(engine, **given | {"url": url}),
    )
    app = App(server, driver)
    yield app
    app.close()


@pytest.fixture
def app(server, driver, monkeypatch):
    with app_on(server, driver, monkeypatch) as app:
        yield app


class Log:
    """What the server writes from now on of PlanWatch's role."""

    def __init__(self, server):
        self._path = server.folder / "log"
        self._start = self._path.stat().st_size

    def entries(self) -> list[str]:
        with self._path.open("rb") as log:
            log.seek(self._start)
            text = log.read().decode("utf-8", "replace")
        records = [record.partition("\x01") for record in re.split("(?:^|\n)\x01", text)]
        return [message for user, _, message in records if user == "watcher"]

    def commands(self) -> list[str]:
        """Return the commands that the role sent."""
        found = [
            re.match(r"LOG:  (?:statement|execute [^:]*): (.*)", entry, re.DOTALL)
            for entry in self.entries()
        ]
        return [match[1] for match in found if match]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(form=st.sampled_from(sorted(FORMS)), text=hostile)
def test_nothing_of_a_text_is_run(app, form, text):
    log = Log(app.server)
    app.run(FORMS[form](text))
    check(app.server, log)


def test_nothing_that_writes_is_run(app):
    log = Log(app.server)
    for piece in PIECES:
        for form in FORMS.values() if WRITE in piece else ():
            app.run(form(piece))
    check(app.server, log)


def check(server, log):
    """Assert that PlanWatch's role wrote nothing, and that all it sent bears the mark."""
    assert server.scalar("SELECT count(*) FROM canary WHERE who = 'watcher'") == 0
    others = [one for one in log.commands() if not one.startswith("/* planwatch */ ")]
    assert [one for one in others if not THEIR_OWN.match(one)] == []


def test_plain_statements_are_inspected(app):
    """The property holds of something: what is no trouble to the server has a plan."""
    log = Log(app.server)
    fine = [name for name in FORMS if name != "alone"]
    for name in fine:
        app.run(FORMS[name]("x" if name.startswith(("a", "in")) and "after" not in name else ""))
    stats = app.planwatch.stats(app.app)
    assert stats["skipped"] == {}, stats
    assert stats["inspected"] == len(fine)
    explained = [one for one in log.commands() if one.startswith("/* planwatch */ EXPLAIN")]
    assert len(explained) >= len(fine)


class Sql:
    """A value that an adapter of the application's writes as SQL of its own."""

    def __init__(self, sql):
        self.sql = sql

    def __conform__(self, protocol):
        return self

    def getquoted(self):
        return self.sql.encode()


#: Each is one string with standard_conforming_strings = on. With off, the string ends before ")",
#: as it does for each form in which PlanWatch may take a value along.
STRINGS = (
    rf"'\'', true); COMMIT; {WRITE}; --'",
    rf"'\'') ; COMMIT; {WRITE}; SELECT (1) --'",
    rf"'\'') SELECT 1; COMMIT; {WRITE}; WITH x AS (SELECT 1 --'",
    rf"'\''; COMMIT; {WRITE}; --'",
)

#: The same the other way round: each is one string with off, and ends before ")" with on.
STRINGS_OF_OLD = tuple(text.replace("\\''", "\\'") for text in STRINGS)

BADGES = "SELECT id FROM badge WHERE owner = {}"

#: Ways to a statement that holds a string as SQL.
HOLDERS = {
    "in the text": lambda sql: sa.text(BADGES.format(sql.replace(":", "\\:"))),
    "a value": lambda sql: (sa.text(BADGES.format(":x")), {"x": Sql(sql)}),
    "a value that cannot be a parameter": lambda sql: (
        sa.text(BADGES.format(":x") + " AND interval :y > '0'"),
        {"x": Sql(sql), "y": "1 day"},
    ),
    "a value beside an order": lambda sql: (
        sa.text(BADGES.format(":x") + " ORDER BY :y"),
        {"x": Sql(sql), "y": 1},
    ),
    "in a list": lambda sql: (sa.text(BADGES.format("ANY (:x)")), {"x": [Sql(sql)]}),
    "in a tuple": lambda sql: (
        sa.text("SELECT id FROM badge WHERE owner IN :x"),
        {"x": (Sql(sql), "y")},
    ),
}


@pytest.fixture(params=["watcher", "postgres", "watcher, postgres"])
def old_strings(server, request):
    """Roles for which a backslash in a string is an escape, as before PostgreSQL 9.1."""
    roles = request.param.split(", ")
    server.execute("TRUNCATE canary")
    for role in roles:
        server.execute(f"ALTER ROLE {role} SET standard_conforming_strings = off")
    yield roles
    for role in roles:
        server.execute(f"ALTER ROLE {role} RESET standard_conforming_strings")


@pytest.mark.parametrize("told", ["", "on", "off"])
def test_strings_that_mean_another_thing_on_planwatchs_connection(
    server, old_strings, told, monkeypatch
):
    """`told` is what the application sets on its connection, and PlanWatch after it."""
    before = [f"SET standard_conforming_strings = {told}"] if told else []
    with app_on(server, "psycopg2", monkeypatch) as app:
        log = Log(server)
        for string in (*STRINGS, *STRINGS_OF_OLD):
            for holder in HOLDERS.values():
                statement = holder(string)
                app.run(*before, statement if isinstance(statement, tuple) else (statement,))
            value = string[1:-1]
            app.run(*before, *(form(value) for form in FORMS.values()))
            app.run(
                *before,
                (sa.text("SELECT set_config('app.text', :x, false)"), {"x": value}),
                BADGES.format("'x'"),
            )
        check(server, log)


def test_strings_with_a_backslash_are_inspected(server, monkeypatch):
    """Where it means the same: as a parameter, in the text, and with a semicolon, too."""
    with app_on(server, "psycopg2", monkeypatch) as app:
        holders = [holder(string) for holder in HOLDERS.values() for string in (r"'a\b'", r"E'\\'")]
        holders += [HOLDERS["a value"](STRINGS[0]), HOLDERS["in a list"](STRINGS[0])]
        holders.append(HOLDERS["a value that cannot be a parameter"](STRINGS[0]))
        for statement in holders:
            app.run(statement if isinstance(statement, tuple) else (statement,))
        stats = app.planwatch.stats(app.app)
        assert (stats["inspected"], stats["skipped"]) == (len(holders), {})


def test_a_string_with_a_backslash_after_a_word(server):
    engine = sa.create_engine(server.url())
    session = Session(engine, url=None, statement_timeout_ms=5000, lock_timeout_ms=1000)
    text = "SELECT id FROM badge WHERE owner LIKE%(x)s AND interval %(y)s > '0'"
    plan = explain(session, Query(text, {"x": r"a\_b\%;%", "y": "1 day"}))
    assert r"'a\_b\%;%'" in plan.as_text()
    session.close()
    engine.dispose()


@pytest.mark.parametrize(("encoding", "character"), [("EUC_JP", "\u00a5"), ("SJIS", "\u30bd")])
def test_characters_that_the_client_encoding_writes_as_a_backslash(server, encoding, character):
    """Python writes the sign of the yen so, and Shift JIS the second half of a syllable."""
    assert b"\\" in character.encode(encoding)
    url = sa.make_url(server.url(user="watcher")).set(query={"client_encoding": encoding})
    url = url.update_query_dict({"host": str(server.folder)})
    engine = sa.create_engine(server.url())
    session = Session(engine, url=url, statement_timeout_ms=5000, lock_timeout_ms=1000)
    for value in (f"{character}'); COMMIT; {WRITE}; --", f"'{character}; COMMIT; {WRITE}; --"):
        with (
            pytest.raises(ServerError, match="client encoding"),
            session.transaction() as transaction,
        ):
            transaction.fetch("SELECT %s", (value,))
    session.close()
    engine.dispose()
    assert server.scalar("SELECT count(*) FROM canary WHERE who = 'watcher'") == 0


@pytest.fixture
def session(server, driver):
    make = create_async_engine if driver == "asyncpg" else sa.create_engine
    engine = getattr(made := make(server.url(driver)), "sync_engine", made)
    url = sa.make_url(server.url(user="watcher"))
    session = Session(engine, url=url, statement_timeout_ms=5000, lock_timeout_ms=1000)
    yield session
    session.close()


@pytest.mark.parametrize(
    "text",
    [
        f"SELECT 1) ; COMMIT; {WRITE}; SELECT (1",
        f"SELECT '\\' ; COMMIT; {WRITE}; --'",
        f"SELECT 1; COMMIT; {WRITE}",
        f"DELETE FROM badge; COMMIT; {WRITE}",
    ],
)
def test_a_text_that_the_server_never_took_for_sql(server, session, text):
    """As when the connection was lost with it: nothing tells that its brackets are in pairs."""
    with pytest.raises(ServerError):
        explain(session, Query(text, None, escaped=False, accepted=False))
    assert server.scalar("SELECT count(*) FROM canary WHERE who = 'watcher'") == 0


def test_nothing_is_sent_once_the_transaction_has_ended(server, session):
    """What would follow would be committed."""
    with session.transaction() as transaction:
        transaction.run("ROLLBACK")
        for send in (transaction.run, transaction.run_alone, transaction.fetch):
            with pytest.raises(ServerError, match="ended early"):
                send(WRITE)
        with pytest.raises(ServerError, match="ended early"):
            explain_in(transaction, "SELECT 1")
    assert server.scalar("SELECT count(*) FROM canary WHERE who = 'watcher'") == 0
    with session.transaction() as transaction:
        assert transaction.fetch("SHOW transaction_read_only") == [("on",)]


def explain_in(transaction, text):
    return Query(text, None, escaped=False).explain(transaction)


def test_what_was_refused_is_not_sent_again(server, app):
    server.execute("CREATE TABLE IF NOT EXISTS secret (a int)", "REVOKE ALL ON secret FROM watcher")
    log = Log(server)
    for _ in range(5):
        app.run("SELECT a FROM secret")
    assert app.planwatch.stats(app.app)["skipped"] == {"permission-denied": 5}
    assert len(refused(log)) == 1
    app.planwatch.clear(app.app)
    app.run("SELECT a FROM secret")
    assert len(refused(log)) == 2


def refused(log):
    return [entry for entry in log.entries() if entry.startswith("ERROR:")]


def test_values_are_not_in_the_log_of_a_server_that_logs_errors(server, app):
    """A refused statement is logged without its values where they are parameters."""
    server.execute("CREATE TABLE IF NOT EXISTS secret (a int)", "REVOKE ALL ON secret FROM watcher")
    log = Log(server)
    app.run((sa.text("SELECT a FROM secret WHERE a = :x"), {"x": 918273}))
    (place,) = [i for i, entry in enumerate(log.entries()) if entry.startswith("ERROR:")]
    assert "918273" not in "".join(log.entries()[place : place + 2])


@pytest.fixture(scope="module", params=[servers.FIRST, servers.HYPOPG])
def counted(request):
    """A server that counts statements."""
    with own_server(request.param, shared_preload_libraries="pg_stat_statements") as server:
        server.execute("CREATE EXTENSION pg_stat_statements", *CANARY)
        yield server


def test_neither_values_nor_each_text_are_in_pg_stat_statements(counted, driver, monkeypatch):
    """Its table is the application's, and has no room for what PlanWatch asks."""
    mine = "FROM pg_stat_statements WHERE userid = 'watcher'::regrole"
    counts = []
    with app_on(counted, driver, monkeypatch) as app:
        for number in range(20):
            mark = f"mark{number}"
            app.run((sa.text("SELECT id FROM badge WHERE owner = :x"), {"x": mark}))
            app.run((sa.text("SELECT id FROM badge WHERE owner = ANY (:x)"), {"x": [mark, mark]}))
            app.run(f"SELECT id FROM badge WHERE owner = '{mark}'")
            counts.append(counted.scalar(f"SELECT count(*) {mine}"))
        assert app.planwatch.stats(app.app)["inspected"] == 60
    assert counted.scalar(f"SELECT count(*) {mine} AND query LIKE '%mark%'") == 0
    assert counts[-1] == counts[4]


def _client_side(connection, _):
    from psycopg import ClientCursor
    from psycopg.rows import dict_row

    connection.cursor_factory, connection.row_factory = ClientCursor, dict_row


def _dictionaries(connection, _):
    from psycopg2.extras import RealDictCursor

    connection.cursor_factory = RealDictCursor


@pytest.mark.parametrize(
    ("driver", "configure"), [("psycopg", _client_side), ("psycopg2", _dictionaries)]
)
@pytest.mark.parametrize("value", ["x", "a'b; c) %s \\"])
def test_cursors_of_the_applications_own(server, driver, configure, value):
    """PlanWatch's are plain, and values go as those of the application went."""
    engine = sa.create_engine(server.url(driver))
    sa.event.listen(engine, "connect", configure)
    session = Session(engine, url=None, statement_timeout_ms=5000, lock_timeout_ms=1000)
    query = Query("SELECT id FROM badge WHERE lower(owner) = %(x)s", {"x": value})
    plan = explain(session, query)
    assert "lower(badge.owner) = " in plan.as_text()
    session.close()
    engine.dispose()

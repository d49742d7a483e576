"""Story 1 as somebody walks through it in the example app."""

from __future__ import annotations

import html
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import click
import pytest
from flask import Flask
from sqlalchemy import create_engine, event, text
from werkzeug.test import TestResponse

from example_app import create_app, seeding
from example_app.extensions import db, planwatch
from example_app.login_query import login_query
from example_app.seeding import DEMO_EMAIL, DEMO_PASSWORD, prepare
from flask_planwatch import Finding

CHECKOUT = Path(__file__).resolve().parent.parent
USERS = 3000


class Visitor:
    """Somebody with a browser: fills in the CSRF token of the page that was opened last."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client = app.test_client()
        self.page = ""

    def open(self, path: str = "/") -> str:
        return self._read(self.client.get(path))

    def press(self, path: str, **fields: str) -> str:
        token = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', self.page)
        assert token, "there is no form on this page"
        data = {"csrf_token": token[1], **fields}
        return self._read(self.client.post(path, data=data, follow_redirects=True))

    def log_in(self, email: str = DEMO_EMAIL, password: str = DEMO_PASSWORD) -> str:
        self.open("/login")
        self.press("/login", email=email, password=password)
        assert planwatch.flush(30, self.app)
        return self.page

    def log_out(self) -> str:
        self.open()
        return self.press("/logout")

    def findings(self) -> tuple[Finding, ...]:
        return planwatch.findings(self.app)

    def found(self) -> set[tuple[str, str]]:
        """The rule and the table of each active finding."""
        return {(finding.rule, finding.relation) for finding in self.findings()}

    def found_in_login(self) -> set[tuple[str, str]]:
        """The same of the query that finds the user."""
        return {
            (finding.rule, finding.relation)
            for finding in self.findings()
            if "lower(" in finding.statement.text
        }

    def advised(self) -> list[str]:
        """What the buttons of the page create."""
        return [
            html.unescape(one) for one in re.findall(r'name="index" value="([^"]+)"', self.page)
        ]

    def create(self, index: str) -> str:
        return self.press("/indexes", index=index)

    def scans(self) -> list[tuple[str, ...]]:
        """How the login's query reads its two tables, for each set of indexes."""
        cells = re.findall(r'<td class="(?:bad|good)">([^<]+)</td>', self.page)
        return list(zip(cells[::2], cells[1::2], strict=True))

    def _read(self, response: TestResponse) -> str:
        assert response.status_code == 200
        self.page = response.text
        return self.page


@pytest.fixture
def app(database: Any) -> Iterator[Flask]:
    app = create_app(database.url)
    with app.app_context():
        prepare(USERS)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def visitor(app: Flask) -> Visitor:
    return Visitor(app)


def count(database: Any, table: str) -> int:
    engine = create_engine(database.url)
    with engine.connect() as connection:
        number = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
    engine.dispose()
    return int(number)


def test_the_first_page_says_what_to_do_and_how_the_login_is_planned(visitor: Visitor) -> None:
    page = visitor.open()
    assert f"{USERS:,} users" in page
    assert DEMO_PASSWORD in page
    assert "Log in first" in page
    assert re.search(r"<button[^>]*disabled[^>]*>Create this index", page)
    assert visitor.scans() == [("Seq Scan", "Seq Scan")]
    assert re.search(r"<strong>\d+\.\d\d ms</strong>", page)
    assert not visitor.findings()


def test_the_query_on_the_page_is_the_one_that_flask_security_sends(visitor: Visitor) -> None:
    sent: list[tuple[str, Any]] = []
    with visitor.app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2:4]))
    visitor.log_in(email="User000007@example.com")
    sql, parameters = login_query("User000007@example.com", engine.dialect)
    assert 'lower("user".email) = lower(' in sql
    assert (sql, parameters) in sent


@pytest.mark.parametrize("email", ["user000001@example.com", "USER003000@EXAMPLE.COM"])
def test_each_user_can_log_in_in_any_case(visitor: Visitor, email: str) -> None:
    assert "You are logged in" in visitor.log_in(email=email)
    assert email.lower() in visitor.open()


def test_the_page_after_the_login_has_the_toolbar_of_the_login_itself(visitor: Visitor) -> None:
    page = visitor.log_in(email="user000001@example.com")
    assert "flDebug" in page
    assert 'href="/"' in page


def test_a_wrong_password_is_refused(visitor: Visitor) -> None:
    page = visitor.log_in(email="user000001@example.com", password="not this one")
    assert "Invalid password" in page
    assert "You are logged in" not in page


def test_a_button_needs_the_token_of_the_page(visitor: Visitor) -> None:
    assert visitor.client.post("/measure").status_code == 400


def test_an_index_that_nobody_advises_is_neither_created_nor_dropped(visitor: Visitor) -> None:
    visitor.log_in(email="user000001@example.com")
    visitor.open()
    assert visitor.advised()
    for path in ("/indexes", "/indexes/user_pkey/drop"):
        with pytest.raises(AssertionError, match="404"):
            visitor.press(path, index='CREATE INDEX own ON "user" (password)')


def test_the_whole_story(visitor: Visitor) -> None:
    both = {("functional-predicate", '"user"'), ("missing-index", "roles_users")}
    visitor.log_in(email="user000001@example.com")
    assert visitor.found_in_login() == both

    page = visitor.open()
    assert "security.login" in page
    advised = visitor.advised()
    assert len(advised) == 2
    assert sum(' ON "user" (lower(email))' in one for one in advised) == 1
    assert sum(" ON roles_users (user_id" in one for one in advised) == 1
    for index in advised:
        assert "The index is created and analysed" in visitor.create(index)
        assert visitor.found_in_login() == both
    assert "They are in place" in visitor.page
    before, *_, after = visitor.scans()
    assert before == ("Seq Scan", "Seq Scan")
    assert not any("Seq Scan" in scan for scan in after)

    visitor.log_out()
    visitor.log_in(email="user000001@example.com")
    visitor.open()
    page = visitor.open()
    assert not visitor.findings()
    assert "Resolved: the login finds its user and the roles by an index each" in page
    assert "Create this index" not in page

    while drop := re.search(r'action="(/indexes/\w+/drop)"', visitor.page):
        assert "is dropped" in visitor.press(drop[1])
    visitor.log_out()
    visitor.log_in(email="user000001@example.com")
    assert visitor.found_in_login() == both


def test_each_index_serves_the_finding_that_advised_it(visitor: Visitor) -> None:
    visitor.log_in(email="user000001@example.com")
    visitor.open()
    (index,) = (one for one in visitor.advised() if ' ON "user" (' in one)
    visitor.create(index)
    assert visitor.scans()[-1][0] != "Seq Scan"
    assert visitor.scans()[-1][1] == "Seq Scan"

    visitor.log_out()
    visitor.log_in(email="user000001@example.com")
    assert visitor.found() == {("missing-index", "roles_users")}
    visitor.open()
    assert visitor.advised()
    assert all(" ON roles_users (" in one for one in visitor.advised())


def test_requests_for_static_files_are_not_watched(visitor: Visitor) -> None:
    visitor.log_in(email="user000001@example.com")
    sent: list[str] = []
    with visitor.app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    before = planwatch.stats(visitor.app)["captured"]
    for path in ("/static/style.css", "/_debug_toolbar/static/css/toolbar.css"):
        with visitor.client.get(path) as response:
            assert response.status_code == 200
    assert len(sent) == 2
    assert planwatch.stats(visitor.app)["captured"] == before


def test_seeding_goes_on_where_it_was_interrupted(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[str] = []

    def interrupt(*args: Any) -> None:
        if "INTO roles_users" in args[2]:
            batches.append(args[2])
            if len(batches) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(seeding, "_BATCH", 500)
    app = create_app(database.url)
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(USERS)
        assert count(database, '"user"') == count(database, "roles_users") == 1000

        prepare(USERS)
        prepare(USERS)
        assert count(database, '"user"') == count(database, "roles_users") == USERS
        db.engine.dispose()


def test_somebody_elses_database_is_refused(database: Any) -> None:
    engine = create_engine(database.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE invoice (id int)"))
    engine.dispose()
    app = create_app(database.url)
    with app.app_context():
        with pytest.raises(click.ClickException, match=r"other tables in it \(invoice\)"):
            prepare(USERS)
        db.engine.dispose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_command_starts_everything_and_a_signal_stops_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "example_app", "--users", "100", "--data", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=CHECKOUT, **pipes) as process:
        assert process.stdout
        try:
            address = next(filter(None, (re.search(r"http://\S+", s) for s in process.stdout)))
            with urlopen(address[0], timeout=30) as response:
                assert "100 users" in response.read().decode()
            second = subprocess.run(
                command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False
            )
            assert second.returncode == 1
            assert "already runs" in second.stderr
        finally:
            process.send_signal(number)
            rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest.endswith("Stopped.\n")
    assert not list(tmp_path.glob("*/postmaster.pid"))

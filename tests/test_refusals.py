"""How long the server is spared what it refused."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_planwatch import SkipReason
from flask_planwatch.capture.connection_state import NOTHING_SET, SessionState
from flask_planwatch.capture.state_change import Change
from flask_planwatch.failure import ServerError
from flask_planwatch.server import refusals
from flask_planwatch.server.refusals import FIRST_PAUSE, LONGEST_PAUSE, MAX_REFUSALS, Refusals

pytestmark = pytest.mark.slow

TEXT = "SELECT * FROM secret"


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, in a list."""
    now = [1000.0]
    monkeypatch.setattr(refusals, "now", lambda: now[0])
    return now


def ask(known, text=TEXT, state=NOTHING_SET, sqlstate="42501"):
    """Return whether the server is asked; it refuses."""
    asked = []

    def refuse():
        asked.append(text)
        raise ServerError(SkipReason.PERMISSION_DENIED, "denied", sqlstate)

    with pytest.raises(ServerError) as caught, known.unless_refused(text, state):
        refuse()
    assert (caught.value.reason, caught.value.detail) == (SkipReason.PERMISSION_DENIED, "denied")
    return bool(asked)


def test_the_pause_doubles_up_to_an_hour(clock):
    known, pauses, asked_at = Refusals(), [], None
    for _ in range(12):
        while not ask(known):
            clock[0] += FIRST_PAUSE / 2
        pauses += [] if asked_at is None else [clock[0] - asked_at]
        asked_at = clock[0]
    assert pauses[:3] == [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4]
    assert pauses[-1] == LONGEST_PAUSE


def test_another_text_or_state_is_asked(clock):
    known = Refusals()
    assert ask(known)
    assert not ask(known)
    assert ask(known, text=TEXT + " AS other")
    assert ask(known, state=SessionState(search_path="tenant"))


@pytest.mark.parametrize(
    ("sqlstate", "once"),
    [(one, True) for one in ("42501", "42P01", "3F000", "42703", "42883", "25006")]
    + [(one, False) for one in ("22012", "22P02", "42804", "54000")],
)
def test_values_in_the_text_matter_to_some_only(clock, sqlstate, once):
    """A privilege is missing whatever is compared; a division by zero is one value's."""
    known = Refusals()
    texts = [f"SELECT * FROM secret WHERE id = {number}" for number in range(5)]
    texts += [f"generic plan: {text}" for text in texts]
    asked = [ask(known, text=text, sqlstate=sqlstate) for text in texts]
    assert asked == ([True, False, False, False, False] * 2 if once else [True] * 10)
    assert not ask(known, text=texts[0], sqlstate=sqlstate)
    assert ask(known, text=f"{TEXT} WHERE other = 1", sqlstate=sqlstate)
    clock[0] += FIRST_PAUSE
    with known.unless_refused(texts[1], NOTHING_SET):
        pass
    assert ask(known, text=texts[1], sqlstate=sqlstate)


def setting(name, value):
    return SessionState(changes=(Change(name, value, local=True),))


TENANT = Change("app.tenant", "1", local=True)


@pytest.mark.parametrize(
    ("sqlstate", "asked"), [("42501", [True, False, False]), ("22012", [True, True, True])]
)
def test_a_setting_of_the_application_that_differs_in_each_request(clock, sqlstate, asked):
    known = Refusals()
    states = [setting("app.request_id", str(number)) for number in range(3)]
    assert [ask(known, state=state, sqlstate=sqlstate) for state in states] == asked


@pytest.mark.parametrize(
    "state",
    [
        setting("app.tenant", None),
        setting("other.tenant", "1"),
        setting("row_security", "off"),
        setting("role", "other"),
        SessionState(changes=(TENANT, Change("role", "a", local=False))),
        SessionState(changes=(TENANT,), user="other"),
    ],
)
def test_what_decides_on_rights_is_asked_again(clock, state):
    """Whether a setting is set decides, too: current_setting() fails without it."""
    known = Refusals()
    assert ask(known, state=setting("app.tenant", "1"))
    assert ask(known, state=state)
    assert not ask(known, state=setting("app.tenant", "2"))


@pytest.fixture
def stranger(database):
    """A role that may read no table."""
    name = f"stranger_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_the_server_refuses_once_however_many_requests(
    database, stranger, watch, monkeypatch, driver
):
    """Each of them names itself in a setting, and PlanWatch may not read the table."""
    refused, remember = [], Refusals._remember

    def spy(self, key, error):
        refused.append(error.sqlstate)
        remember(self, key, error)

    monkeypatch.setattr(Refusals, "_remember", spy)
    database.execute("DROP TABLE IF EXISTS secret", "CREATE TABLE secret AS SELECT 1 AS id")
    url = database.url_for(driver, username=stranger)
    watched = watch(database.url_for(driver), PLANWATCH_DATABASE_URL=url)
    with watched.app.app_context():
        session = watched.db.session
        for number in range(5):
            name = {"value": f"request {number}"}
            session.execute(sa.text("SELECT set_config('app.request', :value, true)"), name)
            session.execute(sa.text("SELECT id FROM secret WHERE id = :id"), {"id": number})
            session.commit()
            assert watched.planwatch.flush(120)
        engine = watched.db.engine
    assert watched.planwatch.stats()["skipped"] == {"permission-denied": 5}
    assert refused == ["42501"]
    watched.planwatch.unwatch(engine)


@pytest.mark.parametrize("sqlstate", ["57014", "55P03", "40P01", "08006", "53300", None])
def test_what_passes_is_asked_again(clock, sqlstate):
    known = Refusals()
    assert ask(known, sqlstate=sqlstate)
    assert ask(known, sqlstate=sqlstate)


def test_an_answer_ends_it(clock):
    known = Refusals()
    assert ask(known)
    clock[0] += FIRST_PAUSE
    with known.unless_refused(TEXT, NOTHING_SET):
        pass
    assert ask(known)
    clock[0] += FIRST_PAUSE
    assert ask(known)


def test_they_are_bounded(clock):
    known = Refusals()
    for number in range(MAX_REFUSALS + 10):
        ask(known, text=f"{TEXT} {number} {'x' * 1000}", sqlstate="22012")
    assert len(known._known) == MAX_REFUSALS

"""How long the server is spared what it refused."""

from __future__ import annotations

import pytest

from flask_planwatch import SkipReason
from flask_planwatch.server import refusals
from flask_planwatch.server.refusals import FIRST_PAUSE, LONGEST_PAUSE, MAX_REFUSALS, Refusals
from flask_planwatch.server.transaction import ServerError
from flask_planwatch.session_state import NOTHING_SET, SessionState

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

    with pytest.raises(ServerError) as caught, known.heeded(text, state):
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
    known.forget()
    assert ask(known)


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
    with known.heeded(texts[1], NOTHING_SET):
        pass
    assert ask(known, text=texts[1], sqlstate=sqlstate)


@pytest.mark.parametrize("sqlstate", ["57014", "55P03", "40P01", "08006", "53300", None])
def test_what_passes_is_asked_again(clock, sqlstate):
    known = Refusals()
    assert ask(known, sqlstate=sqlstate)
    assert ask(known, sqlstate=sqlstate)


def test_an_answer_ends_it(clock):
    known = Refusals()
    assert ask(known)
    clock[0] += FIRST_PAUSE
    with known.heeded(TEXT, NOTHING_SET):
        pass
    assert ask(known)
    clock[0] += FIRST_PAUSE
    assert ask(known)


def test_they_are_bounded(clock):
    known = Refusals()
    for number in range(MAX_REFUSALS + 10):
        ask(known, text=f"{TEXT} {number} {'x' * 1000}", sqlstate="22012")
    assert len(known._known) == MAX_REFUSALS

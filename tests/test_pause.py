"""An inspection lets the application's threads run between its steps."""

from __future__ import annotations

import threading
from time import perf_counter, sleep, thread_time

import pytest

from flask_planwatch.runtime import pause
from flask_planwatch.runtime.pause import LONGEST, STEP, give_way

from .test_story import login


def compute(seconds: float) -> None:
    end = thread_time() + seconds
    while thread_time() < end:
        pass


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that are made, each with the name of its thread and its seconds."""
    made = []

    def recorded(seconds: float) -> None:
        made.append((threading.current_thread().name, seconds))
        sleep(seconds)

    monkeypatch.setattr(pause, "rest", recorded)
    return made


def test_computing_takes_half_of_the_time_at_most():
    give_way()
    began, used = perf_counter(), thread_time()
    for _ in range(20):
        compute(STEP * 3)
        give_way()
    assert thread_time() - used < (perf_counter() - began) * 0.6


def test_there_is_no_pause_after_little_work_nor_after_waiting(pauses):
    give_way()
    pauses.clear()
    sleep(STEP * 10)
    give_way()
    assert pauses == []


def test_a_long_step_is_followed_by_a_short_pause(pauses):
    give_way()
    compute(LONGEST * 4)
    give_way()
    assert pauses[-1][1] == LONGEST


def test_an_inspection_pauses_and_the_application_does_not(story, watch, pauses):
    watched = watch(story.url)
    assert watched.ask(login("user7@example.com"))
    assert {name for name, _ in pauses} == {"flask-planwatch"}
    assert len(pauses) > 3

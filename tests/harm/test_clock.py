"""Tests that stop or move the clock keep no thread, and stop no sampling."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from freezegun import freeze_time

from flask_planwatch import worker

from ..conditions import becomes

pytestmark = [pytest.mark.slow, pytest.mark.versions]


@pytest.fixture(autouse=True)
def ordinary_clock(processor_time):
    """Processor time does not go by while a test waits."""
    processor_time.count_waiting()


@pytest.mark.parametrize("moment", ["2001-01-01", "2041-01-01"])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_frozen_clock(story, watch, moment, driver):
    real = time.monotonic
    watched = watch(story.url_for(driver), PLANWATCH_SAMPLE_INTERVAL=1)

    def ask():
        with watched.app.app_context():
            watched.db.session.execute(sa.text("SELECT 1")).all()
            watched.db.session.remove()

    with freeze_time(moment):
        ask()
        assert watched.planwatch.flush(120)
        assert not watched.planwatch.flush(0) or watched.planwatch.stats()["waiting"] == 0
    (inspected,) = {watched.planwatch.stats()["inspected"]}
    assert inspected == 1
    began = real()
    assert becomes(lambda: real() > began + 1.1)
    ask()
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["inspected"] == 2
    assert watched.planwatch.stats()["captured"] == 2


def test_the_thread_ends_though_the_clock_was_frozen_as_it_began(story, watch, monkeypatch):
    monkeypatch.setattr(worker, "IDLE_SECONDS", 1)
    watched = watch(story.url)
    with freeze_time("2041-01-01"):
        with watched.app.app_context():
            watched.db.session.execute(sa.text("SELECT 1")).all()
            watched.db.session.remove()
        assert watched.planwatch.flush(120)
    assert becomes(lambda: not watched.planwatch.stats()["worker_alive"])


def test_a_flush_that_cannot_succeed_ends_though_the_clock_stands(story, watch, held):
    watched = watch(story.url)
    with freeze_time("2041-01-01"):
        with watched.app.app_context():
            watched.db.session.execute(sa.text("SELECT 1")).all()
            watched.db.session.remove()
        assert not watched.planwatch.flush(0.2)
    held.set()
    assert watched.planwatch.flush(120)

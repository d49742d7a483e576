"""Severity follows what a finding costs today."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import Severity
from flask_planwatch.inspection import findings

from .models import User

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")

#: Works out far more, and on one processor.
OTHER = sa.text("SELECT count(*) FROM generate_series(1, 1000000) AS g WHERE md5(g::text) = 'x'")


def test_warning(story, watch, processor_time):
    (finding,) = watch(story.url).ask(LOGIN)
    assert finding.severity is Severity.WARNING


def test_critical_if_it_took_a_second(story, watch, processor_time):
    processor_time.count_waiting()
    # An InitPlan runs once.
    wait = sa.select(func.pg_sleep(1.0)).scalar_subquery()
    (finding,) = watch(story.url).ask(LOGIN.where(wait.is_not(None)))
    assert finding.duration_ms >= 1000
    assert finding.severity is Severity.CRITICAL


def test_critical_if_it_takes_a_fifth_of_the_time(story, watch, processor_time, monkeypatch):
    watched = watch(story.url)
    (finding,) = watched.ask(LOGIN)
    assert finding.severity is Severity.WARNING, "too little time was seen to speak of a share"
    monkeypatch.setattr(findings, "MEANINGFUL_TOTAL_MS", finding.duration_ms * 2)
    for _ in range(3):
        (finding,) = watched.ask(LOGIN)
    assert finding.severity is Severity.CRITICAL
    assert finding.calls == 4


def test_warning_if_others_take_the_time(story, watch, processor_time, monkeypatch):
    monkeypatch.setattr(findings, "MEANINGFUL_TOTAL_MS", 0.0)
    watched = watch(story.url)
    watched.ask(OTHER)
    (finding,) = watched.ask(LOGIN)
    assert finding.severity is Severity.WARNING

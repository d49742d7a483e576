"""Severity follows what a finding costs today."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import Severity

from .models import Badge, User

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")


def slower(seconds):
    """Make the login take longer: an InitPlan runs once."""
    wait = sa.select(func.pg_sleep(seconds)).scalar_subquery()
    return LOGIN.where(wait.is_not(None))


def test_warning(story, watch):
    (finding,) = watch(story.url).ask(LOGIN)
    assert finding.severity is Severity.WARNING


def test_critical_if_it_took_a_second(story, watch):
    (finding,) = watch(story.url).ask(slower(1.0))
    assert finding.duration_ms >= 1000
    assert finding.severity is Severity.CRITICAL


def test_critical_if_it_takes_a_fifth_of_the_time(story, watch):
    watched = watch(story.url)
    (finding,) = watched.ask(slower(0.3))
    assert finding.severity is Severity.WARNING, "too little time was seen to speak of a share"
    for _ in range(3):
        (finding,) = watched.ask(slower(0.3))
    assert finding.severity is Severity.CRITICAL
    assert finding.calls == 4


def test_warning_if_others_take_the_time(story, watch):
    watched = watch(story.url)
    watched.ask(sa.select(Badge.id, func.pg_sleep(5)).limit(1))
    (finding,) = watched.ask(LOGIN)
    assert finding.severity is Severity.WARNING

"""The log: levels, fields, once in an interval, resolved once, and no compared values."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch.capture import database_time
from flask_planwatch.finding import (
    Advice,
    AdviceKind,
    Finding,
    Inspection,
    Location,
    Severity,
    Skip,
    SkipReason,
    Statement,
    Verdict,
    VerdictStatus,
    shorten,
)
from flask_planwatch.indexes.verdict import _ALONE
from flask_planwatch.report.log import LogReporter, lines
from flask_planwatch.report.store import Store
from flask_planwatch.signals import finding_detected, finding_resolved, statement_inspected

from .cases import first
from .models import Badge, User
from .test_privacy import texts

pytestmark = pytest.mark.versions

FIELDS = {
    "planwatch_id": str,
    "planwatch_rule": str,
    "planwatch_severity": str,
    "planwatch_problem": str,
    "planwatch_fingerprint": str,
    "planwatch_tables": list,
    "planwatch_expression": str,
    "planwatch_evidence": dict,
    "planwatch_advice": str,
    "planwatch_advice_kind": str,
    "planwatch_advice_data": list,
    "planwatch_verdict": str,
    "planwatch_cost_before": float | None,
    "planwatch_cost_after": float | None,
    "planwatch_duration_ms": float,
    "planwatch_calls": int,
    "planwatch_endpoint": str | None,
    "planwatch_statements": int,
    "planwatch_time_share": float | None,
    "planwatch_bind": str | None,
    "db.system.name": str,
    "db.query.text": str,
    "code.file.path": str,
    "code.line.number": int,
    "code.function.name": str,
}


def login(email):
    return sa.select(User.id).where(func.lower(User.email) == email)


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "flask_planwatch")
    return caplog


def test_fields_and_level(story, watch, log):
    watch(story.url, PLANWATCH_VERIFY="build").ask(login("x"))
    (record,) = log.records
    assert (record.name, record.levelno) == ("flask_planwatch", logging.WARNING)
    for name, kind in FIELDS.items():
        assert isinstance(record.__dict__[name], kind), name
    ours = {name for name in record.__dict__ if name.startswith(("planwatch", "db.", "code."))}
    assert ours == set(FIELDS)
    assert record.__dict__["db.system.name"] == "postgresql"
    assert record.planwatch_advice.startswith("CREATE INDEX CONCURRENTLY ix_user_lower_email")
    assert record.planwatch_cost_after < record.planwatch_cost_before
    json.dumps({name: record.__dict__[name] for name in FIELDS})


def test_a_record_names_the_line_of_code_as_formats_and_collectors_expect(reporter, log):
    location = Location("/srv/shop/views.py", 35, "find_user")
    reporter.see(replace(made(), location=location))
    reporter.log_once(logging.INFO, "PlanWatch watches 1 engine.")
    finding, start = log.records
    for name, place in (
        ("code.file.path", finding.pathname),
        ("code.line.number", finding.lineno),
        ("code.function.name", finding.funcName),
    ):
        assert finding.__dict__[name] == place
    assert (finding.pathname, finding.filename) == (location.path, "views.py")
    formatted = logging.Formatter("%(levelname)s in %(module)s: %(message)s").format
    assert formatted(start) == "INFO in flask_planwatch: PlanWatch watches 1 engine."


@pytest.mark.parametrize(
    ("endpoint", "location", "origin"),
    [
        (None, None, "From an unknown line"),
        ("login", None, "Endpoint login"),
        ("login", Location("shop/views.py", 5, "f"), "shop/views.py:5, endpoint login"),
        (None, Location("pages/page.py", 5, "f", True), "Library code at pages/page.py:5"),
        (
            "login",
            Location("pages/page.py", 5, "f", True),
            "Endpoint login, library code at pages/page.py:5",
        ),
    ],
)
def test_where_it_came_from_is_a_sentence(reporter, log, endpoint, location, origin):
    reporter.see(replace(made(), endpoint=endpoint, location=location))
    first, _ = log.messages[0].splitlines()
    assert first.endswith(f". {origin}")


def test_message_says_what_where_and_what_to_do(story, watch, log, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    watch(story.url).ask(login("x"))
    message = log.records[0].getMessage()
    first, second = message.splitlines()
    took = log.records[0].planwatch_duration_ms
    took = f"{took:,.0f}" if took >= 10 else f"{took:,.1f}"
    (line,) = {log.records[0].__dict__["code.line.number"]}
    assert first == (
        f'{log.records[0].planwatch_severity}: Seq Scan on "user" (100,000 rows, {took} ms): '
        f"no index on lower((email)::text). tests/conftest.py:{line}"
    )
    assert len(message.split()) <= 35
    reason = log.records[0].planwatch_advice_data[0]["reason"]
    assert second == (
        '  Fix: CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email)) '
        f"[untested: {reason.partition(': ')[0]}], in model+migration  "
        f"id {log.records[0].planwatch_id}"
    )
    assert "user_email_key" in log.records[0].planwatch_problem


def test_once_in_an_interval_and_resolved_once(fresh_story, watch, log):
    watched = watch(fresh_story.url)
    for number in range(3):
        watched.ask(login(f"x{number}"))
    (record,) = log.records
    fresh_story.execute('CREATE INDEX ON "user" (lower(email))')
    for number in range(3):
        watched.ask(login(f"x{number}"))
    _, resolved = log.records
    assert resolved.levelno == logging.INFO
    assert resolved.getMessage().startswith(
        'resolved: the latest execution no longer shows this: Seq Scan on "user" (100,000 rows, '
    )
    assert "): no index on lower((email)::text). tests/conftest.py:" in resolved.getMessage()
    assert resolved.getMessage().endswith(f"\n  id {record.planwatch_id}")
    assert resolved.planwatch_id == record.planwatch_id


def test_again_after_the_interval(story, watch, log):
    watched = watch(story.url, PLANWATCH_LOG_INTERVAL=0)
    for _ in range(3):
        watched.ask(login("x"))
    assert len(log.records) == 3


def of_kind(number):
    """Return one of the statements that the same index on badge.owner would serve."""
    columns = [Badge.id, Badge.owner, func.count(Badge.id)]
    return sa.select(columns[number]).where(func.lower(Badge.owner) == "x")


BIG = {"PLANWATCH_GROWTH": True, "PLANWATCH_VERIFY": "build"}


def test_the_same_advice_is_logged_once_with_the_number_of_statements(story, watch, log):
    watched, sent = watch(story.url, **BIG), []

    def receive(sender, finding):
        sent.append(finding.id)

    with finding_detected.connected_to(receive, watched.app):
        for number in (0, 1, 2, 0):
            watched.ask(of_kind(number))
    (record,) = log.records
    assert record.planwatch_statements == 1
    assert len(sent) == len(watched.planwatch.findings()) == 3
    assert len({finding.fingerprint for finding in watched.planwatch.findings()}) == 3
    # Once the interval is over, it says how many there are now.
    watched.app.extensions["planwatch"]._log._clock = lambda: float("inf")
    watched.ask(of_kind(1))
    _, again = log.records
    assert again.planwatch_statements == 3
    assert "] for 3 statements, in model+migration  id " in again.getMessage()


@pytest.mark.slow
def test_other_advice_and_other_tables_are_logged(story, watch, log):
    watched = watch(story.url, PLANWATCH_VERIFY="build")
    watched.ask(login("x"))
    watched.ask(sa.select(User.id).where(func.lower(User.first) == "x"))
    watched.ask(sa.select(User.last).where(func.lower(User.email) == "x"))
    assert [record.planwatch_expression for record in log.records] == [
        "lower((email)::text)",
        "lower(first)",
    ]


def test_what_shared_a_line_is_resolved_in_one(fresh_story, watch, log):
    watched = watch(fresh_story.url, **BIG)
    for number in range(3):
        watched.ask(of_kind(number))
    fresh_story.execute("CREATE INDEX ON badge (lower(owner))")
    for number in range(3):
        watched.ask(of_kind(number))
    assert watched.planwatch.findings() == ()
    first, resolved = log.records
    assert resolved.planwatch_id == first.planwatch_id
    assert resolved.planwatch_statements == 2


def made(number=1, *, severity=Severity.WARNING, verdict=VerdictStatus.UNTESTED, advised="a"):
    """Return a finding of the statement of this number, with this advice or None."""
    advice = Advice(AdviceKind.CREATE_INDEX, f"CREATE INDEX ON t ({advised})", Verdict(verdict))
    return Finding(
        rule="missing-index",
        severity=severity,
        statement=Statement(f"{number:016}", "SELECT 1"),
        relation="t",
        subject="a",
        problem="It is slow.",
        advice=(advice,) if advised else (),
    )


@pytest.fixture
def reporter():
    store = Store()
    reporter = LogReporter(
        3600, clock=lambda: reporter.now, active=store.__len__, saves_much=store.saves_much
    )
    reporter.now = 0.0

    def see(*findings):
        for finding in findings:
            reporter.report(store.record(Inspection(finding.statement, 1.0, findings=(finding,))))

    reporter.see = see
    return reporter


#: What an advice serves and replaces, and what the log says of that.
USES = {
    "one statement": ({}, ""),
    "several": ({"statements": 3}, " for 3 statements"),
    "much of the time": (
        {"statements": 3, "time_share": 0.416},
        " for 3 statements, 42% of database time",
    ),
    "one that takes much of the time": ({"time_share": 1.0}, " for 100% of database time"),
    "hardly any of the time": ({"statements": 2, "time_share": 0.004}, " for 2 statements"),
    "another index": ({"replaces": ("ix_a",)}, ", replaces ix_a"),
    "other indexes": (
        {"statements": 2, "replaces": ("ix_a", "ix_b", "ix_c")},
        " for 2 statements, replaces ix_a and 2 more",
    ),
}


@pytest.mark.parametrize("name", USES)
def test_what_the_log_says_of_the_use_of_an_advice(name):
    changes, said = USES[name]
    finding = made()
    advice = replace(finding.advice[0], **changes)
    assert lines(replace(finding, advice=(advice,))).endswith(
        f"Fix: CREATE INDEX ON t (a) [untested]{said}  id {finding.id}"
    )


def test_what_was_rejected_replaces_nothing():
    finding = made(verdict=VerdictStatus.REJECTED)
    advice = replace(finding.advice[0], replaces=("ix_a",))
    assert "replaces" not in lines(replace(finding, advice=(advice,)))


def test_the_share_of_the_time_is_logged(story, watch, log):
    watched = watch(story.url, PLANWATCH_VERIFY="off")
    watched.ask(login("x"))
    assert log.records[-1].planwatch_time_share is None
    sampler = watched.app.extensions["planwatch"].sampler
    sampler.total_ms = 1e9
    watched.app.extensions["planwatch"]._log._clock = lambda: float("inf")
    watched.ask(login("x"))
    share = log.records[-1].planwatch_time_share
    assert 0 < share < 1e-3
    (finding,) = watched.findings()
    assert finding.time_share == finding.advice[0].time_share == share
    assert finding.advice[0].as_dict()["time_share"] == share


def test_a_finding_without_advice_is_logged_for_each_statement(reporter, log):
    reporter.see(*(made(number, advised=None) for number in (1, 2, 1, 2)))
    assert [record.planwatch_statements for record in log.records] == [1, 1]


def test_a_finding_that_becomes_critical_is_logged_again(reporter, log):
    critical = made(2, severity=Severity.CRITICAL)
    reporter.see(made(), critical, made(), critical, made(3), critical)
    assert [record.planwatch_severity for record in log.records] == ["warning", "critical"]
    reporter.now = 3600.0
    reporter.see(made())
    assert log.records[-1].planwatch_severity == "warning"


def test_a_finding_that_becomes_a_warning_is_logged_again(reporter, log):
    """How much time it takes shows only after a while."""
    reporter.see(*(made(severity=severity) for severity in [*Severity] * 3))
    assert [record.planwatch_severity for record in log.records] == ["info", "warning", "critical"]


def test_another_verdict_of_the_same_finding_is_logged_again(reporter, log):
    verdicts = [VerdictStatus.UNTESTED, VerdictStatus.REJECTED, VerdictStatus.VERIFIED]
    for verdict in verdicts * 3:
        reporter.see(made(verdict=verdict))
    assert [record.planwatch_verdict for record in log.records] == verdicts


def test_of_another_statement_only_a_proof_is_logged(reporter, log):
    reporter.see(
        made(1),
        made(2, verdict=VerdictStatus.REJECTED),
        made(3, verdict=VerdictStatus.VERIFIED),
        made(4, verdict=VerdictStatus.VERIFIED),
        made(5, verdict=VerdictStatus.UNTESTED),
    )
    assert [record.planwatch_verdict for record in log.records] == ["untested", "verified"]


def test_what_is_remembered_of_the_log_is_bounded(reporter, log, monkeypatch):
    monkeypatch.setattr(reporter._groups, "_count", 2)
    reporter.see(*(made(advised=column) for column in "abcbca"))
    said = [record.planwatch_advice.removeprefix("CREATE INDEX ON t ") for record in log.records]
    assert said == ["(a)", "(b)", "(c)", "(a)"]
    assert len(reporter._groups) == 2


def many(count, saves_ms=600.0, **changes):
    """Return findings that each have a fix of their own, and save this much of a minute."""
    return [
        replace(made(number, advised=f"c{number}", **changes), saves_ms=saves_ms)
        for number in range(count)
    ]


def told(log):
    """Return the fixes of the findings that were logged since, and how often more was told of."""
    records, log.records[:] = list(log.records), []
    more = sum(
        " more than it logs in PLANWATCH_LOG_INTERVAL" in one.getMessage() for one in records
    )
    return [one.planwatch_advice for one in records if hasattr(one, "planwatch_id")], more


def test_no_more_than_a_screen_is_logged_in_an_interval(reporter, log):
    warnings = many(100)
    reporter.see(*warnings, *warnings)
    assert len(log.records) == 17
    assert log.messages[-1] == (
        "PlanWatch has 17 findings, more than it logs in PLANWATCH_LOG_INTERVAL. Others are only "
        "counted: PlanWatch.findings() and the panel list all of them, those that save most first."
    )
    assert log.records[-1].levelno == logging.WARNING
    fixes, _ = told(log)
    assert fixes == [finding.advice[0].summary for finding in warnings[:16]]
    # There is room for what is critical, one of what was logged and others that were not.
    grave = [replace(finding, severity=Severity.CRITICAL) for finding in warnings[10:]]
    reporter.see(*grave)
    fixes, more = told(log)
    assert (fixes, more) == ([finding.advice[0].summary for finding in grave[:8]], 0)


def test_what_saves_little_leaves_room_for_what_saves_much(reporter, log):
    little, much = many(100, saves_ms=599.0), many(120)[100:]
    reporter.see(*little, *much)
    fixes, more = told(log)
    assert fixes == [one.advice[0].summary for one in (*little[:11], *much[:5])]
    assert more == 1
    reporter.see(*(replace(one, severity=Severity.CRITICAL) for one in many(140)[120:]))
    fixes, more = told(log)
    assert (len(fixes), more) == (8, 0)


def test_what_saved_little_is_logged_once_it_saves_much(reporter, log):
    reporter.see(*many(40, saves_ms=1.0))
    told(log)
    late = many(40)[30]
    reporter.see(late)
    assert told(log) == ([late.advice[0].summary], 0)


def test_what_saves_little_has_its_turn(reporter, log):
    warnings, seen, hours = many(20, saves_ms=1.0), set(), 0
    while len(seen) < len(warnings):
        reporter.now = 3600.0 * hours
        reporter.see(*warnings)
        seen.update(told(log)[0])
        hours += 1
    assert hours == 4, "three others in each, after eleven"


@pytest.mark.parametrize(("minimum_ms", "logged"), [(0.0, True), (1e9, False)])
def test_what_a_fix_saves_is_known_to_the_log(story, watch, log, monkeypatch, minimum_ms, logged):
    monkeypatch.setattr(database_time, "LONG_TOTAL_MS", minimum_ms)
    watched = watch(story.url, PLANWATCH_VERIFY="off")
    watcher = watched.app.extensions["planwatch"]
    watcher._log._screen.began = watcher._log._clock()
    watcher._log._screen.entries[logging.WARNING] = 11
    watched.ask(login("x"))
    assert len(told(log)[0]) == logged


def test_in_debug_mode_the_next_minute_has_room_again(reporter, log):
    warnings = many(20)
    reporter._debug = lambda: True
    reporter.see(*warnings, *warnings)
    assert log.messages[-1].startswith("PlanWatch has 17 findings, more than it logs in a minute.")
    fixes, _ = told(log)
    reporter.now = 61.0
    reporter.see(*warnings)
    later, more = told(log)
    assert more == 0
    assert fixes + later == [finding.advice[0].summary for finding in warnings]


def test_what_had_no_room_has_it_later(reporter, log):
    warnings, seen, hours = many(78), set(), 0
    while len(seen) < len(warnings):
        reporter.now = 3600.0 * hours
        reporter.see(*warnings)
        fixes, more = told(log)
        assert len(fixes) <= 16
        assert more == 1
        seen.update(fixes)
        hours += 1
    assert hours == 9, "eight others in each, after sixteen"


def test_what_is_an_info_takes_no_room_from_warnings(reporter, log):
    reporter.see(*many(100, severity=Severity.INFO), made(200, advised="other"))
    assert [record.levelno for record in log.records] == [logging.INFO] * 25 + [logging.WARNING]


def test_without_an_interval_all_is_logged(log):
    store = Store()
    reporter = LogReporter(0)
    for finding in many(50):
        reporter.report(store.record(Inspection(finding.statement, 1.0, findings=(finding,))))
    assert len(log.records) == 50


@pytest.mark.slow
@pytest.mark.parametrize("configure", ["dictConfig", "fileConfig"])
@pytest.mark.parametrize("where", first(1, ["in the process", "in its child"]))
def test_a_configuration_that_does_not_name_the_logger_does_not_mute_it(
    story, tmp_path, configure, where
):
    """In a process of its own: a configuration stays for good."""
    program = tmp_path / "program.py"
    program.write_text(CONFIGURED)
    (tmp_path / "logging.ini").write_text(INI)
    output = subprocess.run(
        [sys.executable, program, configure, where, story.url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stderr.count("Seq Scan on") == 1
    assert output.stdout.split() == ["True", "False"]


CONFIGURED = """
import logging.config, os, sys
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_planwatch import PlanWatch

configure, where, url = sys.argv[1:]
app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = url
db, planwatch = SQLAlchemy(app), PlanWatch(app)
if configure == "dictConfig":
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"error": {"class": "logging.StreamHandler"}},
            "root": {"level": "INFO", "handlers": ["error"]},
        }
    )
else:
    logging.config.fileConfig("logging.ini")
print(logging.getLogger("flask_planwatch").disabled, flush=True)
child = os.fork() if where == "in its child" else 0
if child:
    os.waitpid(child, 0)
else:
    with app.app_context():
        db.session.execute(sa.text("SELECT id FROM \\"user\\" WHERE lower(email) = 'x'"))
        db.session.rollback()
    assert planwatch.flush(120, app=app)
    print(logging.getLogger("flask_planwatch").disabled, flush=True)
    os._exit(0)
"""

INI = """
[loggers]
keys=root
[handlers]
keys=error
[formatters]
keys=
[logger_root]
level=INFO
handlers=error
[handler_error]
class=StreamHandler
args=(sys.stderr,)
"""


LONG = "a" * 3000
MANY = "word " * 300


def test_a_message_has_two_lines_however_much_there_is_to_say(reporter, log):
    long = replace(
        made(verdict=VerdictStatus.REJECTED, advised=LONG),
        title=LONG,
        location=Location("/srv/shop/app.py", 35, "login", library=True),
        endpoint="login",
    )
    reason = Verdict(VerdictStatus.REJECTED, MANY)
    advice = Advice(AdviceKind.REWRITE, MANY, reason)
    wordy = replace(made(2), title=MANY, advice=(advice, advice), endpoint="login")
    reporter.see(made(advised=None), long, wordy)
    reporter.report_skip(Skip(SkipReason.LOCK_TIMEOUT), f"SELECT\n{LONG}")
    for record in log.records:
        assert len(record.getMessage().splitlines()) == 2
        assert len(record.getMessage()) < 700
        assert len(record.getMessage().split()) <= 40
    assert "Endpoint login, library code at /srv/shop/app.py:35\n  Tried: " in log.messages[1]
    assert log.records[3].__dict__["db.query.text"] == f"SELECT\n{LONG}"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("(replace(name, '  ', ' '))", "(replace(name, '  ', ' '))"),
        ("(replace(name, '\n', ' '))", "(replace(name, E'\\n', ' '))"),
        ("(replace(name, 'a\\\n', 'it''s  so'))", "(replace(name, E'a\\\\\\n', 'it''s  so'))"),
        ("(replace(name, E'\\\\\n', ' '))", "(replace(name, E'\\\\\\n', ' '))"),
        ('("two  blanks")', '("two  blanks")'),
        ("the table's  name and the users'  rows", "the table's name and the users' rows"),
    ],
)
def test_white_space_in_quotes_is_that_of_the_index(story, written, shown):
    assert shorten(written, 100) == shown
    if "replace" in written:
        value = "'a  b' || chr(10)"
        assert story.scalar(f"SELECT {written} = {shown}".replace("name", value))


def test_an_advice_is_cut_only_where_the_message_would_be_too_long(reporter, log):
    rewrite = "store lower(email) in a generated column and use it in the statement in its place"
    verdict = Verdict(VerdictStatus.NOT_APPLICABLE, "a rewrite changes the statement, so there is")
    short = replace(made(), advice=(Advice(AdviceKind.REWRITE, rewrite, verdict),), title="Short")
    reporter.see(short, replace(made(2), title=MANY))
    assert f"  Fix: {rewrite}  id " in log.text
    assert "word…. " not in log.text
    assert "word… " in log.text


def test_of_an_advice_that_is_too_long_a_whole_sentence_is_logged(reporter, log):
    rewrite = (
        "compare coalesce(a, b) with a half-open range: coalesce(a, b) >= start AND "
        "coalesce(a, b) < end; start is the beginning of the day that is compared with, end that "
        "of the next one in the time zone that is meant"
    )
    advice = Advice(AdviceKind.REWRITE, rewrite, Verdict(VerdictStatus.NOT_APPLICABLE, "so"))
    for number, title, said in (
        (1, "Short", rewrite.partition(";")[0]),
        (2, MANY, rewrite.partition(": ")[0]),
    ):
        reporter.see(replace(made(number), relation=str(number), title=title, advice=(advice,)))
        assert f"\n  Fix: {said}  id " in log.messages[-1]


def test_nothing_is_cut_for_one_or_two_words(reporter, log):
    for number, words in enumerate((30, 31, 32, 33, 34, 35)):
        advice = Advice(AdviceKind.REWRITE, " ".join(["word"] * words), UNTRIED)
        reporter.see(replace(made(number), relation=str(number), title="Short", advice=(advice,)))
    cut = [message.count("…") for message in log.messages]
    assert cut == sorted(cut)
    assert {0, 1} == set(cut)
    for message, words in zip(log.messages, (30, 31, 32, 33, 34, 35), strict=True):
        left_out = words - message.count("word")
        assert left_out == 0 or left_out > 2


def test_no_clause_in_the_middle_is_cut_off(reporter, log):
    summary = "store it in a column: an index on it, which holds a value, would serve " + "it " * 30
    advice = Advice(AdviceKind.REWRITE, summary, UNTRIED)
    reporter.see(replace(made(), title="Short", advice=(advice,)))
    assert "\n  Fix: store it in a column  id " in log.messages[0]


def test_an_index_that_a_rewrite_needs_is_counted(reporter, log):
    rewrite = Advice(AdviceKind.REWRITE, "say a @> ARRAY[value]", UNTRIED)
    index = made().advice[0]
    rejected = made(verdict=VerdictStatus.REJECTED).advice[0]
    reporter.see(replace(made(), advice=(rewrite, index, rejected)))
    assert "\n  Fix: say a @> ARRAY[value] and 1 more  id " in log.messages[0]
    assert log.records[0].planwatch_verdict == "not-applicable"


def test_what_keeps_an_index_from_being_proved_is_said_first():
    brief = Verdict(VerdictStatus.UNTESTED, _ALONE).brief
    assert brief == "untested: HypoPG could not show it in the statement"


UNTRIED = Verdict(VerdictStatus.NOT_APPLICABLE, "a rewrite changes the statement")


@pytest.mark.parametrize("words", [12, 13, 14])
def test_no_title_is_cut_inside_of_an_expression(reporter, log, words):
    title = "word " * words + "no index on id % 7"
    reporter.see(
        replace(made(), subject="id % 7", title=title),
        replace(made(2, advised="b"), keys=("a", "id % 7"), title=f"{title} and the others"),
        replace(made(3, advised="c"), subject="a", title="word " * 15 + "no index on id % 7"),
    )
    assert "index on id % 7. From" in log.messages[0]
    assert "index on id % 7… From" in log.messages[1]
    assert "index on… From" in log.messages[2]


def test_what_is_not_shown_of_an_index_is_to_be_put_in(reporter, log):
    ddl = "CREATE INDEX i ON t (a) WHERE b = {}::text AND c = ANY ({})"
    shown = Advice(
        AdviceKind.CREATE_INDEX, "", Verdict(VerdictStatus.VERIFIED), (ddl.format("'x:y'", 5),)
    )
    hidden = ddl.format(":b_1", ":c_1")
    public = replace(shown, ddl=(hidden,), summary=hidden)
    advice = replace(shown, summary=hidden, public=public)
    reporter.see(replace(made(), advice=(advice,)))
    assert f"Fix: {hidden} (put the value for :b_1 and :c_1) [verified]  id " in log.text


def test_of_many_commands_the_first_is_logged_as_a_whole(reporter, log):
    """An index of a partitioned table is built on each partition, and what is cut cannot be run."""
    ddl = tuple(
        f"CREATE INDEX CONCURRENTLY ix_{month} ON events_{month} (at)" for month in range(9)
    )
    verdict = Verdict(VerdictStatus.VERIFIED)
    advice = Advice(AdviceKind.CREATE_INDEX, "; ".join(ddl), verdict, ddl)
    reporter.see(replace(made(), advice=(advice,)))
    assert f"  Fix: {ddl[0]}; … (and 8 more) [verified]  id " in log.text


def test_where_an_index_is_written_is_said_if_there_are_models(reporter, log):
    verdict = Verdict(VerdictStatus.VERIFIED)
    forms = {"ddl": ("CREATE INDEX x",), "migration": "# both"}
    mapped = Advice(AdviceKind.CREATE_INDEX, "CREATE INDEX x", verdict, **forms, sqlalchemy="Index")
    for advice, said in (
        (mapped, "[verified], in model+migration  id "),
        (replace(mapped, sqlalchemy="", summary="y"), "y [verified], in a migration  id "),
        (replace(mapped, migration="", summary="z"), "Fix: z [verified]  id "),
        (
            replace(mapped, summary="w", verdict=Verdict(VerdictStatus.REJECTED)),
            "Tried: w [rejected]  id ",
        ),
    ):
        reporter.see(replace(made(), advice=(advice,)))
        assert said in log.messages[-1]


def test_a_finding_without_advice_says_what_to_look_at(reporter, log):
    reporter.see(replace(made(advised=None), hint="PLANWATCH_ANALYZE shows which step"))
    assert "\n  Next: PLANWATCH_ANALYZE shows which step  id " in log.messages[0]


@pytest.mark.parametrize(
    ("subject", "relation", "about"),
    [
        ("Seq Scan on run", "run", "Seq Scan on run"),
        ("Seq Scan on run", "shop.run", "Seq Scan on run"),
        ('Seq Scan on "Run"', 'shop."Run"', 'Seq Scan on "Run"'),
        ("Hash Join", "run", "Hash Join on run"),
        ("state", "run", "state on run"),
        ("statement", "", "statement"),
    ],
)
def test_a_table_is_named_once(subject, relation, about):
    assert replace(made(), subject=subject, relation=relation).about == about


def test_a_path_is_the_same_wherever_people_read_it(reporter, log, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    finding = replace(made(), location=Location(str(tmp_path / "shop" / "app.py"), 35, "login"))
    reporter.see(finding)
    shown = os.path.join("shop", "app.py") + ":35"
    assert log.messages[0].splitlines()[0].endswith(f" {shown}")
    assert finding.origin == f"{shown} in login"


def test_repr_is_one_short_line(story, watch):
    (finding,) = watch(story.url, PLANWATCH_VERIFY="off").ask(login("x"))
    assert repr(finding) == (
        f"<Finding {finding.id} {finding.severity} functional-predicate: lower((email)::text) on "
        '"user" [untested]>'
    )
    assert repr(finding.advice[0]) == (
        '<Advice create-index: CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" '
        '(lower(email)) [untested: PLANWATCH_VERIFY is "off"]>'
    )
    long = replace(made(advised=LONG), subject=LONG)
    assert max(len(repr(long)), len(repr(long.advice[0]))) < 200


def test_a_level_silences_it(reporter, caplog):
    caplog.set_level(logging.CRITICAL, "flask_planwatch")
    reporter.see(made())
    assert caplog.records == []


def test_growth_is_info(story, watch, log):
    watch(story.url, PLANWATCH_GROWTH=True).ask(
        sa.select(Badge).where(func.lower(Badge.owner) == "x")
    )
    (record,) = log.records
    assert record.levelno == logging.INFO
    assert record.planwatch_severity == "info"


@pytest.mark.parametrize(
    "ignore",
    [
        "functional-predicate",
        "functional-predicate:user",
        'functional-predicate:"user"',
        "functional-predicate:lower((email)::text)",
    ],
)
def test_ignored(story, watch, log, ignore):
    assert watch(story.url, PLANWATCH_IGNORE=[ignore]).ask(login("x")) == []
    assert log.records == []


def test_ignored_by_id(story, watch, log):
    (finding,) = watch(story.url).ask(login("x"))
    log.clear()
    assert watch(story.url, PLANWATCH_IGNORE=[finding.id]).ask(login("y")) == []
    assert log.records == []


def test_signals_are_sent_inside_the_app_context(fresh_story, watch):
    watched, heard = watch(fresh_story.url), []

    def hear(name):
        def receive(sender, **what):
            from flask import current_app

            heard.append((name, sender is watched.app is current_app._get_current_object(), what))

        return receive

    receivers = {
        signal: hear(signal.name)
        for signal in (finding_detected, finding_resolved, statement_inspected)
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver, watched.app)
    watched.ask(login("x"))
    watched.ask(login("y"))
    fresh_story.execute('CREATE INDEX ON "user" (lower(email))')
    watched.ask(login("z"))
    assert [name.removeprefix("planwatch-") for name, _, _ in heard] == [
        "statement-inspected",
        "finding-detected",
        "statement-inspected",
        "statement-inspected",
        "finding-resolved",
    ]
    assert all(inside for _, inside, _ in heard)
    assert heard[1][2]["finding"].id == heard[-1][2]["finding"].id


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "statement",
    [
        login(SECRET),
        sa.text(f"SELECT * FROM \"user\" WHERE lower(email) = '{SECRET}'"),
        sa.text(
            f"SELECT * FROM \"user\" WHERE first <> E'{SECRET}\\\\n' "
            f"AND lower(email) IN ('a', '{SECRET}')"
        ),
        sa.select(User).where(User.data["type"].astext == SECRET, User.state != SECRET),
        sa.select(User).where(func.lower(User.email).in_([SECRET, "b"])).limit(5),
        sa.select(sa.text("nope")).where(User.first == SECRET),
        sa.select(User.id).where(func.strpos(User.first, SECRET) == 7),
        sa.select(User.id).where(func.coalesce(User.first, SECRET) == "x"),
        sa.select(User.id).where(User.first == func.replace(User.last, SECRET, "y")),
        sa.select(User.id).where(sa.case((User.first == SECRET, 1), else_=0) == 1),
        sa.select(User.id).where(sa.func.coalesce(User.first == SECRET, False) == User.points),
    ],
)  # fmt: skip
def test_no_compared_value_leaves_the_process(story, watch, log, statement):
    watched, sent = watch(story.url), []

    def receive(sender, inspection):
        sent.extend(texts(inspection))

    with statement_inspected.connected_to(receive, watched.app):
        try:
            watched.ask(statement)
        except sa.exc.ProgrammingError:
            watched.findings()
    everything = sent + [record.getMessage() + repr(record.__dict__) for record in log.records]
    assert sent
    assert SECRET not in "".join(everything)


@pytest.fixture(scope="module")
def posts(story):
    """Posts that are nearly all in a state which is secret."""
    story.execute(
        "CREATE TABLE post (id int, state text, title text, created_at timestamptz)",
        f"INSERT INTO post SELECT g, CASE WHEN g % 100 = 0 THEN 'draft' ELSE '{SECRET}' END, "
        "'Title' || g, now() - g * interval '1 minute' FROM generate_series(1, 100000) g",
        "ANALYZE post",
    )
    return story


OLDEST_DRAFTS = sa.text(
    "SELECT id FROM post WHERE state <> :state ORDER BY created_at LIMIT 10"
).bindparams(state=SECRET)


def test_a_partial_index_is_logged_with_a_placeholder(posts, watch, log):
    (finding,) = watch(posts.url, PLANWATCH_VERIFY="build").ask(OLDEST_DRAFTS)
    (advice,) = finding.advice
    assert f"state <> '{SECRET}'" in advice.ddl[0]
    assert SECRET in advice.sqlalchemy
    assert SECRET in advice.alembic
    (record,) = log.records
    message = record.getMessage()
    told = "ON post (created_at) WHERE state <> :state_1 (put the value for :state_1) [verified"
    assert told in message
    assert "state <> :state_1" in record.planwatch_advice_data[0]["ddl"][0]
    assert SECRET not in message + repr(record.__dict__) + repr(advice.as_dict())


def test_a_partial_index_is_logged_with_its_value_where_the_user_says_so(posts, watch, log):
    watched = watch(posts.url, PLANWATCH_VERIFY="build", PLANWATCH_SHOW_PARAMETERS=True)
    watched.ask(OLDEST_DRAFTS)
    assert f"WHERE state <> '{SECRET}' [verified" in log.records[0].getMessage()


def test_no_dismissal_holds_the_value_of_a_partial_index(posts, watch):
    statement = sa.text(
        "SELECT id FROM post WHERE state <> :state AND lower(title) > 'title' "
        "ORDER BY created_at LIMIT 10"
    ).bindparams(state=SECRET)
    watched, sent = watch(posts.url, PLANWATCH_VERIFY="build"), []

    def receive(sender, inspection):
        sent.extend(inspection.dismissals)

    with statement_inspected.connected_to(receive, watched.app):
        watched.ask(statement)
    (dismissal,) = sent
    assert "an index (created_at) WHERE state <> " in dismissal.reason
    assert SECRET not in dismissal.reason


def test_shown_where_the_user_says_so(story, watch):
    watched, sent = watch(story.url, PLANWATCH_SHOW_PARAMETERS=True), []

    def receive(sender, inspection):
        sent.append(inspection.plan.as_text())

    with statement_inspected.connected_to(receive, watched.app):
        (finding,) = watched.ask(login(SECRET))
    assert SECRET in sent[0]
    assert SECRET in finding.evidence["condition"]


def test_a_json_key_that_varies_counts_as_a_value(story, watch, log):
    watched, sent = watch(story.url), []

    def receive(sender, inspection):
        sent.extend(texts(inspection))

    def by_key(key):
        return sa.select(User.id).where(User.data[key].astext == "x")

    (finding,) = watched.ask(by_key("type"))
    assert finding.subject == "data ->> 'type'::text"
    log.clear()
    with statement_inspected.connected_to(receive, watched.app):
        (finding,) = watched.ask(by_key(SECRET))
    assert finding.subject == "data ->> ?::text"
    assert finding.advice[0].kind == "rewrite"
    assert SECRET not in "".join(sent + [repr(record.__dict__) for record in log.records])


def test_a_long_constant_counts_as_a_value(story, watch, log):
    (finding,) = watch(story.url).ask(
        sa.select(User.id).where(func.coalesce(User.first, SECRET * 20) == "x")
    )
    assert SECRET not in "".join(finding.message for finding in [finding])
    assert SECRET not in repr([record.__dict__ for record in log.records])


def everything_of(watched, log, statements):
    """Run statements on one line, and return all that is logged, sent and found."""
    sent = []

    def receive(sender, **what):
        sent.extend(texts(what))

    with statement_inspected.connected_to(receive, watched.app):
        for statement in statements:
            watched.ask(statement)
    said = [record.getMessage() + repr(record.__dict__) for record in log.records]
    return "".join([*sent, *said, *texts(watched.planwatch.findings())])


def newest(order):
    return sa.select(User.id).order_by(order).limit(5)


@pytest.mark.parametrize(
    "order",
    [User.first == SECRET, sa.case((User.first == SECRET, 0), else_=1), User.first + SECRET],
)
def test_an_order_by_a_value_is_no_order_for_an_index(story, watch, log, order):
    watched = watch(story.url)
    assert SECRET not in everything_of(watched, log, [newest(order)])
    assert watched.planwatch.findings() == ()


def test_an_order_by_a_key_that_varies_is_no_order_for_an_index(story, watch, log):
    watched = watch(story.url)
    by_key = [newest(User.data[key].astext) for key in ("type", SECRET)]
    (finding,) = watched.ask(by_key[0])
    assert finding.subject == "data ->> 'type'::text"
    said = everything_of(watched, log, by_key[1:] + by_key)
    assert "data ->> ?::text" in said
    assert SECRET not in said


def test_a_group_by_a_key_that_varies(story, watch, log):
    def by(key):
        group = User.data[key].astext.label("g")
        return sa.select(group).where(User.state == "x").group_by(sa.text("g"))

    said = everything_of(watch(story.url), log, [by("type"), by(SECRET)])
    assert SECRET not in said


def test_what_is_printed_of_an_advice_holds_no_value(posts, watch):
    (finding,) = watch(posts.url, PLANWATCH_VERIFY="build").ask(OLDEST_DRAFTS)
    assert SECRET in finding.advice[0].ddl[0]
    assert SECRET not in repr(finding)


@pytest.mark.parametrize("kind", ["regclass", "regnamespace"])
def test_a_name_that_is_a_value_is_not_in_the_reason_of_a_skip(story, watch, log, kind):
    watched = watch(story.url)
    with watched.app.app_context():
        connection = watched.db.session.connection()
        # It is there for the app, and not for anybody else; no hook sees it.
        connection.connection.cursor().execute(
            f"CREATE {'TABLE' if kind == 'regclass' else 'SCHEMA'} {SECRET}"
            f"{' ()' if kind == 'regclass' else ''}"
        )
        statement = sa.text(f"SELECT id FROM badge WHERE CAST(:name AS {kind}) IS NULL")
        connection.execute(statement, {"name": SECRET})
        assert watched.findings() == []
        watched.db.session.rollback()
    assert watched.planwatch.stats()["skipped"] == {"not-visible": 1}
    assert SECRET not in "".join(repr(record.__dict__) for record in log.records)


def test_a_function_that_refuses_with_a_value_of_the_server_s_own_states(fresh_story, watch, log):
    fresh_story.execute(
        "CREATE FUNCTION allowed(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN "
        "IF current_setting('application_name') = 'flask-planwatch' THEN "
        "RAISE insufficient_privilege USING MESSAGE = 'none of ' || $1; END IF; "
        "RETURN $1; END $$"
    )
    watched = watch(fresh_story.url)
    said = everything_of(watched, log, [sa.select(Badge.id).where(func.allowed(SECRET) == "x")])
    assert watched.planwatch.stats()["skipped"] == {"permission-denied": 1}
    assert SECRET not in said


def test_a_value_behind_a_dollar_sign_in_a_wrong_statement(story, watch, log):
    watched = watch(story.url)
    with pytest.raises(sa.exc.ProgrammingError):
        watched.ask(sa.text(f"SELECT id FROM badge WHERE owner = $'{SECRET}'"))
    watched.findings()
    (record,) = log.records
    assert SECRET not in repr(record.__dict__)

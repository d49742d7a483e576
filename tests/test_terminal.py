"""What a developer sees in the terminal: the line at the start, and all findings, once each."""

from __future__ import annotations

import io
import logging
import logging.config
import logging.handlers
import os
import queue
import signal
import subprocess
import sys
from contextlib import contextmanager

import flask
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_debugtoolbar.panels.logger import ThreadTrackingHandler
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func

from flask_planwatch import PlanWatch
from flask_planwatch.report.log import LogReporter
from flask_planwatch.server.enabling import options
from flask_planwatch.signals import finding_detected
from flask_planwatch.watcher import OFF
from flask_planwatch.worker import Worker

from .conditions import becomes
from .models import Badge, User
from .test_servers import fetch, free_port

pytestmark = [pytest.mark.slow, pytest.mark.versions]

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")
SMALL = sa.select(Badge.id).where(func.lower(Badge.owner) == "x")

#: How lines of these findings begin.
WARNING, INFO = 'warning: Seq Scan on "user" (', "info: Seq Scan on badge ("

#: Makes the first finding a warning, and the second an info, however fast the machine is.
SEVERITIES = {"PLANWATCH_MIN_ROWS": 50_000, "PLANWATCH_VERIFY": "off"}


@pytest.fixture
def bare_logging():
    """Return what takes away what pytest adds to the log; undo what a test does to it."""
    loggers = [logging.getLogger(), logging.getLogger("flask_planwatch")]
    before = [(one.handlers[:], one.level, one.propagate, one.disabled) for one in loggers]

    def make_bare():
        # Only the test itself can: pytest adds its handlers after the fixtures.
        loggers[0].handlers[:] = []
        loggers[0].setLevel(logging.WARNING)

    yield make_bare
    for one, (handlers, level, propagate, disabled) in zip(loggers, before, strict=True):
        for added in set(one.handlers) - set(handlers):
            added.close()
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate, one.disabled = propagate, disabled


def by_toolbar():
    logging.root.addHandler(ThreadTrackingHandler())


def by_toolbar_that_opens_the_level():
    by_toolbar()
    logging.root.setLevel(logging.NOTSET)


def by_dict():
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"error": {"class": "logging.StreamHandler"}},
            "root": {"level": "INFO", "handlers": ["error"]},
        }
    )


def by_dict_with_a_level():
    by_dict()
    logging.root.setLevel(logging.ERROR)


def by_a_file(folder):
    logging.basicConfig(filename=folder / "log", level=logging.INFO)


SET_UPS = [
    lambda: None,
    by_toolbar,
    by_toolbar_that_opens_the_level,
    lambda: logging.root.addHandler(logging.NullHandler()),
    lambda: logging.root.addHandler(logging.handlers.BufferingHandler(100)),
    logging.basicConfig,
    lambda: logging.basicConfig(level=logging.INFO),
    lambda: logging.basicConfig(level=logging.INFO, stream=sys.stdout),
    by_dict,
    by_dict_with_a_level,
]


class Tee:
    """A stream that has only what a handler needs, and passes it on."""

    def __init__(self, *streams):
        self.streams = streams

    def write(self, text):
        for stream in self.streams:
            stream.write(text)

    def flush(self):
        for stream in self.streams:
            stream.flush()


class NoTerminal(Tee):
    def isatty(self):
        return False


class Named:
    """Passes it on by the methods, and has slots."""

    __slots__ = ("flush", "put")

    def __init__(self, stream):
        self.put, self.flush = stream.write, stream.flush

    def write(self, text):
        self.put(text)


class Lazy:
    """Has nothing of its own, as a wrapper that only closes nothing."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        if name in {"isatty", "fileno"}:
            raise AttributeError(name)
        return getattr(self.stream, name)


class Printing:
    """Holds no stream."""

    def write(self, text):
        print(text, end="")

    def flush(self):
        pass


@pytest.mark.parametrize("set_up", SET_UPS)
def test_findings_of_all_severities_are_printed_once_in_debug_mode(
    bare_logging, story, watch, capsys, set_up
):
    bare_logging()
    set_up()
    watched = watch(story.url, DEBUG=True, **SEVERITIES)
    for statement in (LOGIN, SMALL, LOGIN, SMALL):
        watched.ask(statement)
    out, err = capsys.readouterr()
    assert (out + err).count(WARNING) == 1 or (out + err).count("critical: Seq Scan") == 1
    assert (out + err).count(INFO) == 1
    assert (out + err).count("PlanWatch watches 1 engine: ") == 1


def test_a_log_that_goes_to_a_file_is_kept_and_printed(
    bare_logging, story, watch, capsys, tmp_path
):
    bare_logging()
    by_a_file(tmp_path)
    watch(story.url, DEBUG=True, **SEVERITIES).ask(SMALL)
    assert capsys.readouterr().err.count(INFO) == 1
    assert (tmp_path / "log").read_text().count(INFO) == 1


def of_the_app(record):
    return record.name.startswith("shop")


def by_a_filter():
    handler = logging.StreamHandler()
    handler.addFilter(of_the_app)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def by_a_filter_in_a_dict():
    logging.config.dictConfig(
        {
            "version": 1,
            "filters": {"shop": {"name": "shop"}},
            "handlers": {"error": {"class": "logging.StreamHandler", "filters": ["shop"]}},
            "root": {"level": "INFO", "handlers": ["error"]},
        }
    )


class File(logging.FileHandler):
    """A class of the application's own, as those that name a file by the day."""


def by_a_file_that_is_not_open(folder):
    logging.basicConfig(level=logging.INFO, handlers=[File(folder / "late", delay=True)])


def by_name_to_a_file(folder):
    logger = logging.getLogger("flask_planwatch")
    logger.addHandler(logging.FileHandler(folder / "named"))
    logger.setLevel(logging.INFO)


def by_a_queue_to_a_file(folder):
    handler = logging.handlers.QueueHandler(queue.Queue())
    # As dictConfig of Python 3.12 does.
    handler.listener = logging.handlers.QueueListener(
        handler.queue, logging.FileHandler(folder / "queued", delay=True)
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


@pytest.mark.parametrize(
    "set_up",
    [
        lambda folder: by_a_filter(),
        lambda folder: by_a_filter_in_a_dict(),
        by_a_file_that_is_not_open,
        by_name_to_a_file,
        by_a_queue_to_a_file,
    ],
)
def test_what_certainly_reaches_no_terminal_is_printed(
    bare_logging, story, watch, capsys, tmp_path, set_up
):
    bare_logging()
    set_up(tmp_path)
    watch(story.url, DEBUG=True, **SEVERITIES).ask(SMALL)
    err = capsys.readouterr().err
    assert err.count(INFO) == 1
    assert err.count("PlanWatch watches 1 engine: ") == 1


def test_a_filter_is_asked_once_and_one_that_takes_the_record_is_enough(
    bare_logging, story, watch, capsys
):
    bare_logging()
    asked = []
    by_a_filter()
    (handler,) = logging.root.handlers
    handler.removeFilter(of_the_app)
    handler.addFilter(lambda record: not asked.append(record))
    before = handler.filters[:]
    watch(story.url, DEBUG=True, **SEVERITIES).ask(SMALL)
    assert capsys.readouterr().err.count(INFO) == 1
    assert sum(INFO in record.getMessage() for record in asked) == 1
    assert handler.filters == before


class Collected(logging.Handler):
    """A handler of the application's own, as those that hand records to another logging package."""

    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def test_a_handler_of_the_applications_own_is_enough(bare_logging, story, watch, capsys):
    bare_logging()
    handler = Collected()
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    watch(story.url, DEBUG=True, **SEVERITIES).ask(SMALL)
    assert capsys.readouterr().err == ""
    assert sum(INFO in one for one in handler.said) == 1


def test_a_queue_is_enough(bare_logging, story, watch, capsys):
    bare_logging()
    waiting = queue.Queue()
    logging.root.addHandler(logging.handlers.QueueHandler(waiting))
    logging.root.setLevel(logging.INFO)
    watch(story.url, DEBUG=True, **SEVERITIES).ask(SMALL)
    assert capsys.readouterr().err == ""
    assert waiting.qsize() == 2


def test_a_level_a_filter_and_disable_silence_it_in_debug_mode(bare_logging, story, watch, capsys):
    bare_logging()
    ours = logging.getLogger("flask_planwatch")
    watched = watch(story.url, DEBUG=True, PLANWATCH_LOG_INTERVAL=0, **SEVERITIES)
    ours.setLevel(logging.CRITICAL)
    watched.ask(SMALL)
    ours.setLevel(logging.NOTSET)
    logging.disable()
    try:
        watched.ask(SMALL)
    finally:
        logging.disable(logging.NOTSET)
    asked = []
    ours.addFilter(refuse := lambda record: asked.append(record))
    watched.ask(SMALL)
    ours.removeFilter(refuse)
    assert len(asked) == 1
    assert capsys.readouterr().err == ""
    watched.ask(SMALL)
    assert INFO in capsys.readouterr().err


def of_this_request(record):
    record.request_id = flask.g.get("request_id", "-")
    return True


def a_filter(handler):
    handler.addFilter(of_this_request)


def a_filter_of_the_logger(handler):
    logging.getLogger("flask_planwatch").addFilter(of_this_request)


def a_record_factory(handler):
    plain = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *args, **kw: of_this_request(plain(*args, **kw)))


class Broken(logging.Handler):
    def emit(self, record):
        flask.g.records.append(record)


def a_handler(handler):
    logging.root.addHandler(Broken())
    logging.root.removeHandler(handler)


def a_handler_before_it(handler):
    logging.root.handlers.insert(0, Broken())


def a_handler_after_it(handler):
    logging.root.addHandler(Broken())


def a_handler_after_one_with_a_filter(handler):
    handler.addFilter(lambda record: True)
    logging.root.addHandler(Broken())


class Unready(logging.Handler):
    @property
    def stream(self):
        return flask.g.stream

    def emit(self, record):
        self.stream.write(record.getMessage())


def a_stream(handler):
    logging.root.addHandler(Unready())
    logging.root.removeHandler(handler)


RAISING = [
    a_filter,
    a_stream,
    a_filter_of_the_logger,
    a_record_factory,
    a_handler,
    a_handler_before_it,
    a_handler_after_it,
    a_handler_after_one_with_a_filter,
]

NOT_LOGGED = (
    "PlanWatch could not log a message: the application's logging raised RuntimeError at "
    f"{__file__}:"
)


@pytest.fixture
def raising_logging(bare_logging):
    """Return what sets up logging that raises outside of Flask's contexts."""
    factory, ours = logging.getLogRecordFactory(), logging.getLogger("flask_planwatch")

    def set_up(raising):
        bare_logging()
        handler = logging.StreamHandler()
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        raising(handler)

    yield set_up
    logging.setLogRecordFactory(factory)
    ours.removeFilter(of_this_request)


@pytest.mark.parametrize("raising", RAISING)
def test_what_logging_that_raises_does_not_print_is_printed(
    raising_logging, story, watch, capsys, raising
):
    raising_logging(raising)
    watched = watch(story.url, DEBUG=True, **SEVERITIES)
    for statement in (LOGIN, SMALL):
        watched.ask(statement)
    err = capsys.readouterr().err
    assert err.count(WARNING) + err.count("critical: Seq Scan") == 1
    assert err.count(INFO) == 1
    assert err.count("PlanWatch watches 1 engine: ") == 1
    assert err.count(NOT_LOGGED) == 1
    assert watched.planwatch.stats()["errors"] == 3


@pytest.mark.parametrize("raising", RAISING)
def test_in_production_it_is_said_once_that_logging_raises(
    raising_logging, story, watch, capsys, raising
):
    raising_logging(raising)
    watched = watch(story.url, PLANWATCH_GROWTH=True, **SEVERITIES)
    for statement in (LOGIN, SMALL):
        watched.ask(statement)
    assert capsys.readouterr().err.count(NOT_LOGGED) == 1
    assert watched.planwatch.stats()["errors"] == 2


class Exiting(logging.Formatter):
    def format(self, record):
        raise SystemExit(1)


class ExitingHandler(logging.Handler):
    def emit(self, record):
        raise SystemExit(1)


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("exiting", ["formatter", "handler"])
def test_logging_that_exits_keeps_nothing_else_from_the_app(
    bare_logging, story, watch, capsys, debug, exiting
):
    """Neither the message, which is printed in debug mode, nor the signals."""
    bare_logging()
    if exiting == "handler":
        logging.basicConfig(level=logging.INFO, handlers=[ExitingHandler()])
    else:
        with_formatter(Exiting())
    heard = []
    watched = watch(story.url, DEBUG=debug, **SEVERITIES)
    with finding_detected.connected_to(lambda _, finding: heard.append(finding), watched.app):
        watched.ask(LOGIN)
    err = capsys.readouterr().err
    assert len(heard) == 1
    assert (WARNING in err or "critical: Seq Scan" in err) == debug
    assert err.count("SystemExit") == 1
    assert watched.planwatch.stats()["errors"] == 1 + debug


@pytest.mark.parametrize("logging_that_exits", [Exiting, ExitingHandler])
def test_on_the_thread_of_the_app_an_exit_ends_it(debugged, capsys, logging_that_exits):
    """A signal handler may have raised it."""
    reporter = debugged()
    if logging_that_exits is Exiting:
        with_formatter(Exiting())
    else:
        logging.basicConfig(level=logging.INFO, handlers=[ExitingHandler()])
    with pytest.raises(SystemExit):
        reporter.log_once(logging.WARNING, "said")
    assert capsys.readouterr().err == "said\n"
    assert reporter.errors == 0


class OfThisRequest(logging.Formatter):
    def format(self, record):
        return f"{flask.request.url} {super().format(record)}"


class OfNothing(logging.Formatter):
    def format(self, record):
        return None


NO_FIELD = logging.Formatter("%(url)s %(message)s")
LEFT_OUT = "PlanWatch left out a handler of the application's log: the formatter "
NO_FIELD_SAID = (
    "logging.Formatter('%(url)s %(message)s') of a StreamHandler raised ValueError. PlanWatch logs "
    "outside of Flask's contexts; PlanWatch.findings() has what it found. Others are only "
    "counted, in PlanWatch.stats()."
)


def with_formatter(formatter, handler=None):
    handler = handler or logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return handler


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize(
    ("formatter", "said"),
    [
        (NO_FIELD, NO_FIELD_SAID),
        (
            OfThisRequest(),
            "tests.test_terminal.OfThisRequest('%(message)s') of a StreamHandler raised "
            "RuntimeError. ",
        ),
        (
            OfNothing(),
            "tests.test_terminal.OfNothing('%(message)s') of a StreamHandler returned NoneType. ",
        ),
    ],
)
def test_what_a_formatter_fails_on_is_printed_and_the_formatter_is_named_once(
    bare_logging, story, watch, capsys, monkeypatch, formatter, said, raises
):
    bare_logging()
    monkeypatch.setattr(logging, "raiseExceptions", raises)
    handler = with_formatter(formatter)
    watched = watch(story.url, DEBUG=True, **SEVERITIES)
    for statement in (LOGIN, SMALL):
        watched.ask(statement)
    err = capsys.readouterr().err
    start, left_out, *findings = err.splitlines()
    assert start.startswith("PlanWatch watches 1 engine: ")
    assert left_out.startswith(f"{LEFT_OUT}{said}")
    # Each finding has two lines, and nothing else is there.
    assert [line[:2] == "  " for line in findings] == [False, True] * 2
    assert INFO in findings[2]
    assert watched.planwatch.stats()["errors"] == 3
    assert (handler.filters, handler.formatter) == ([], formatter)


@pytest.fixture
def debugged(bare_logging):
    """Return what makes a reporter of an application that is being developed, with a bare log."""

    def make():
        bare_logging()
        return LogReporter(3600, lambda: True)

    return make


@pytest.fixture
def log_file(tmp_path):
    with (tmp_path / "log").open("w") as file:
        yield file


#: Streams of classes of the application's own, and how often each prints what it is given.
OWN_STREAMS = [
    (lambda file: Tee(sys.stderr), 1),
    (lambda file: Tee(sys.stdout, file), 1),
    (lambda file: Tee(Tee(file, Named(sys.stderr))), 1),
    (lambda file: Lazy(sys.stderr), 1),
    (lambda file: NoTerminal(sys.stderr), 1),
    (lambda file: Named(sys.stderr), 1),
    (lambda file: Printing(), 1),
    (lambda file: Tee(file, io.StringIO()), 0),
    (lambda file: Named(file), 0),
]


@pytest.mark.parametrize(("make", "prints"), OWN_STREAMS)
def test_a_stream_of_the_applications_own_prints_if_it_leads_to_the_terminal(
    debugged, capsys, log_file, make, prints
):
    reporter = debugged()
    logging.basicConfig(level=logging.INFO, stream=make(log_file))
    reporter.log_once(logging.INFO, "a line")
    assert (written := capsys.readouterr()).out.count("a line") + written.err.count("a line") == 1
    assert written.err.count("a line") == 1 or prints


def test_a_stream_that_holds_itself(debugged, capsys, log_file):
    tee = Tee(log_file)
    tee.parent = tee
    reporter = debugged()
    logging.basicConfig(level=logging.INFO, stream=tee)
    reporter.log_once(logging.INFO, "a line")
    assert capsys.readouterr().err.count("a line") == 1


def test_a_field_that_a_filter_adds_is_there(debugged, capsys):
    reporter = debugged()

    def add(record):
        record.url = "/login"
        return True

    handler = with_formatter(NO_FIELD)
    handler.addFilter(add)
    reporter.log_once(logging.WARNING, "said")
    assert capsys.readouterr().err == "/login said\n"
    assert (reporter.errors, handler.filters) == (0, [add])


def test_of_a_file_with_such_a_formatter_the_formatter_is_named(debugged, capsys, tmp_path):
    reporter = debugged()
    with_formatter(NO_FIELD, logging.FileHandler(tmp_path / "log"))
    logging.root.addHandler(logging.StreamHandler())
    reporter.log_once(logging.WARNING, "said")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "said"
    assert second.startswith(LEFT_OUT)
    assert "of a FileHandler raised" in second


@pytest.mark.parametrize(
    ("encoding", "message", "printed"),
    [
        ("latin-1", "a long name…", "a long name…"),
        ("ascii", "no index on größe", "no index on größe"),
        ("utf-8", "a lone \ud800", "a lone \\ud800"),
    ],
)
@pytest.mark.parametrize("formatter", [None, logging.Formatter("%(message)s")])
def test_what_a_stream_cannot_encode_is_printed_and_the_stream_is_named_once(
    debugged, capsys, monkeypatch, encoding, message, printed, formatter
):
    reporter = debugged()
    stream = io.TextIOWrapper(written := io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    handler = with_formatter(NO_FIELD, logging.StreamHandler(stream))
    handler.setFormatter(formatter)
    for said in (message, "plain", f"{message} again"):
        reporter.log_once(logging.WARNING, said)
    first, left_out, last = capsys.readouterr().err.splitlines()
    assert (first, last) == (printed, f"{printed} again")
    assert left_out.startswith(
        "PlanWatch left out a handler of the application's log: the stream of a StreamHandler "
        f"cannot encode a message in {encoding}. PlanWatch.findings() has what it found. "
    )
    assert written.getvalue() == b"plain\n"
    assert (reporter.errors, handler.filters) == (2, [])


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("kind", [logging.FileHandler, logging.handlers.RotatingFileHandler])
def test_of_a_file_that_cannot_encode_it_the_handler_is_named(
    debugged, capsys, tmp_path, kind, delay
):
    reporter = debugged()
    handler = kind(tmp_path / "log", encoding="ascii", delay=delay)
    with_formatter(None, handler)
    logging.root.addHandler(logging.StreamHandler())
    reporter.log_once(logging.WARNING, "größe")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "größe"
    assert f"the stream of a {kind.__name__} cannot encode a message in ascii" in second
    assert reporter.errors == 1


def test_a_stream_that_replaces_what_it_cannot_encode_is_enough(debugged, capsys, monkeypatch):
    reporter = debugged()
    stream = io.TextIOWrapper(written := io.BytesIO(), encoding="ascii", errors="replace")
    monkeypatch.setattr(sys, "stdout", stream)
    with_formatter(logging.Formatter(), logging.StreamHandler(stream))
    reporter.log_once(logging.WARNING, "größe")
    assert (written.getvalue(), capsys.readouterr().err) == (b"gr??e\n", "")
    assert reporter.errors == 0


def test_standard_error_has_what_it_can_encode(debugged, monkeypatch):
    reporter = debugged()
    stream = io.TextIOWrapper(written := io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    with_formatter(None, logging.StreamHandler(stream))
    reporter.log_once(logging.WARNING, "größe")
    first, left_out = written.getvalue().decode("ascii").splitlines()
    assert first == r"gr\xf6\xdfe"
    assert "cannot encode a message in ascii" in left_out


def test_of_a_logger_with_such_a_formatter_what_it_leaves_out_is_printed(debugged, capsys):
    reporter = debugged()
    ours = logging.getLogger("flask_planwatch")
    ours.addHandler(handler := logging.StreamHandler())
    handler.setFormatter(NO_FIELD)
    ours.setLevel(logging.INFO)
    reporter.log_once(logging.WARNING, "said")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "said"
    assert second.startswith(LEFT_OUT)


def test_a_handler_with_a_way_of_its_own_for_errors_has_it(debugged, capsys):
    reporter = debugged()
    failed = []

    class Careful(logging.StreamHandler):
        def handleError(self, record):
            failed.append(record.getMessage())

    with_formatter(NO_FIELD, Careful())
    reporter.log_once(logging.WARNING, "said")
    assert (failed, reporter.errors) == (["said"], 0)


@pytest.mark.parametrize("set_up", [lambda: None, by_toolbar])
def test_in_production_it_stays_with_the_applications_log(
    bare_logging, story, watch, capsys, set_up
):
    bare_logging()
    set_up()
    watched = watch(story.url, PLANWATCH_GROWTH=True, **SEVERITIES)
    watched.ask(SMALL)
    watched.ask(LOGIN)
    err = capsys.readouterr().err
    assert INFO not in err
    assert "watches" not in err
    # Python's last resort.
    assert ("Seq Scan" in err) is (set_up is not by_toolbar)


def engine_line(name, driver, database, proof):
    version = str(database.scalar("SHOW server_version")).split(" ")[0]
    return f"{name} ({driver}, PostgreSQL {version}, {proof})"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_the_line_at_the_start_says_how_indexes_are_proved(
    bare_logging, any_story, watch, capsys, driver
):
    bare_logging()
    watched = watch(any_story.url_for(driver), DEBUG=True)
    watched.ask(LOGIN)
    hypopg = any_story.scalar("SELECT extversion FROM pg_extension WHERE extname = 'hypopg'")
    if hypopg is None:
        # tests/test_enabling.py has what else may be said of a server.
        engine = watched.app.extensions["planwatch"]._watched()[0]
        with engine.session.transaction(own_state=True) as transaction:
            can = options(transaction, ())
        proof = f"no proof: {can.hypopg}, or, {can.building}"
    else:
        proof = f"proof by HypoPG {hypopg}"
    first, *_ = capsys.readouterr().err.splitlines()
    said = engine_line("default", driver, any_story, proof)
    assert first == f"PlanWatch watches 1 engine: {said}."


def test_it_says_what_would_enable_a_proof(bare_logging, hypopg_server, watch, capsys, templates):
    bare_logging()
    from .databases import make_database

    for database in make_database(hypopg_server, templates(hypopg_server)):
        database.execute("DROP EXTENSION IF EXISTS hypopg")
        watched = watch(database.url, DEBUG=True)
        watched.ask(sa.text("SELECT 1"))
        proof = (
            "no proof: HypoPG is not installed in this database: CREATE EXTENSION hypopg, or, on a "
            'database of your own, set PLANWATCH_VERIFY = "build"'
        )
        assert engine_line("default", "psycopg2", database, proof) in capsys.readouterr().err
        with watched.app.app_context():
            watched.planwatch.unwatch(watched.db.engine)
            watched.db.engine.dispose()


@pytest.mark.parametrize(
    ("verify", "proof"),
    [
        ("off", 'no proof: PLANWATCH_VERIFY is "off"'),
        ("build", "proof by building indexes that are rolled back"),
    ],
)
def test_it_says_what_is_set(bare_logging, story, watch, capsys, verify, proof):
    bare_logging()
    watch(story.url, DEBUG=True, PLANWATCH_VERIFY=verify).ask(sa.text("SELECT 1"))
    assert engine_line("default", "psycopg2", story, proof) in capsys.readouterr().err


def test_engines_of_all_kinds_are_in_one_line(bare_logging, story, watch, capsys):
    bare_logging()
    binds = {"archive": story.url_for("psycopg"), "cache": "sqlite://"}
    watched = watch(story.url, DEBUG=True, PLANWATCH_VERIFY="off", SQLALCHEMY_BINDS=binds)
    watched.ask(sa.text("SELECT 1"))
    (line,) = capsys.readouterr().err.splitlines()
    proof = 'no proof: PLANWATCH_VERIFY is "off"'
    first = engine_line("default", "psycopg2", story, proof)
    second = engine_line("archive", "psycopg", story, "no proof, as for default")
    assert line == (
        f"PlanWatch watches 2 engines: {first}, {second}. Not watched: cache (sqlite+pysqlite)."
    )
    # An engine that is shown later is told of as soon as it has a statement.
    engine = sa.create_engine(story.url)
    watched.planwatch.watch(engine, watched.app)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1")).all()
    assert watched.planwatch.flush(120, watched.app)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("PlanWatch watches 3 engines: ")
    assert engine_line(story.name, "psycopg2", story, "no proof, as for default") in line
    watched.planwatch.unwatch(engine, watched.app)
    engine.dispose()


def request_of(app):
    app.add_url_rule("/", view_func=lambda: "x")
    assert app.test_client().get("/").status_code == 200


def test_a_server_that_is_down_is_said(bare_logging, watch, capsys):
    bare_logging()
    watched = watch("postgresql+psycopg2://nobody@127.0.0.1:9/nothing", DEBUG=True)
    request_of(watched.app)
    line = (
        "PlanWatch watches 1 engine: default (psycopg2, PlanWatch could not connect to the server: "
        "Connection refused)."
    )
    said = []
    assert becomes(lambda: said.append(capsys.readouterr().err) or line in "".join(said))


NOTHING = {
    "sqlite": "PlanWatch watches nothing: default (sqlite+pysqlite) is not PostgreSQL through "
    "psycopg2, psycopg or asyncpg.",
    "": "PlanWatch watches nothing: the app has no engine of Flask-SQLAlchemy, and none was given "
    "to planwatch.watch(engine).",
}


@pytest.mark.parametrize("url", NOTHING)
@pytest.mark.parametrize("first", ["planwatch", "database"])
def test_that_nothing_is_watched_is_said_once(bare_logging, capsys, url, first):
    bare_logging()
    app = Flask("tests.app")
    app.config.update(DEBUG=True, SQLALCHEMY_DATABASE_URI="sqlite://")
    extensions = [PlanWatch] + [SQLAlchemy] * bool(url)
    for extension in extensions if first == "planwatch" else reversed(extensions):
        extension(app)
    request_of(app)
    said = []
    assert becomes(lambda: said.append(capsys.readouterr().err) or NOTHING[url] in "".join(said))
    for _ in range(3):
        assert app.test_client().get("/").status_code == 200
    said.append(capsys.readouterr().err)
    assert "".join(said) == f"{NOTHING[url]}\n"


@pytest.mark.parametrize("debug", [True, False])
def test_that_planwatch_is_off_is_said_once_at_init_app(bare_logging, capsys, monkeypatch, debug):
    """No request starts it, as nothing listens to one."""
    bare_logging()
    app = Flask("tests.app")
    app.config.update(
        DEBUG=debug, PLANWATCH_ENABLED=False, PLANWATCH_IGNORE="missing-index:nothing"
    )
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    jobs = []
    monkeypatch.setattr(Worker, "run", lambda worker, job: jobs.append(job))
    planwatch = PlanWatch(app)
    db = SQLAlchemy(app)
    assert capsys.readouterr().err == (f"{OFF}\n" if debug else "")
    app.add_url_rule("/", view_func=lambda: db.session.execute(sa.text("SELECT 'x'")).scalar())
    for _ in range(3):
        assert app.test_client().get("/").status_code == 200
    assert planwatch.stats(app)["captured"] == 0
    assert capsys.readouterr().err == ""
    assert jobs == []


def test_no_command_says_that_planwatch_is_off(bare_logging, capsys):
    """Such as that of the reloader, which loads the app in two processes."""
    bare_logging()
    app = Flask("tests.app")
    app.config.update(DEBUG=True, PLANWATCH_ENABLED=False)

    @app.cli.command("load")
    def load():
        PlanWatch(app)

    assert app.test_cli_runner().invoke(args=["load"]).exit_code == 0
    assert "planwatch" in app.extensions
    assert capsys.readouterr().err == ""


def test_a_server_that_is_reloaded_says_it_before_any_request(
    bare_logging, story, capsys, monkeypatch
):
    bare_logging()
    monkeypatch.setenv("WERKZEUG_RUN_MAIN", "true")
    app = Flask("tests.app")
    app.config["SQLALCHEMY_DATABASE_URI"] = story.url
    planwatch = PlanWatch(app)
    db = SQLAlchemy(app)
    # As app.run(debug=True) does.
    app.debug = True
    said = []
    assert becomes(
        lambda: (
            said.append(capsys.readouterr().err) or "PlanWatch watches 1 engine: " in "".join(said)
        )
    )
    with app.app_context():
        planwatch.unwatch(db.engine)
        db.engine.dispose()


@contextmanager
def flask_run(database, folder, *options, **environment):
    """Run an app by `flask run`; yield its URL, and what returns PlanWatch's lines so far."""
    port = free_port()
    output = folder / "output"
    flask = (sys.executable, "-u", "-m", "flask", "--app", "tests.served_app")
    known = {"SERVED_DATABASE_URL": database.url, "SERVED_LOG": str(folder / "log")}
    with output.open("w") as file:
        process = subprocess.Popen(
            [*flask, "run", "-p", str(port), *options],
            env=os.environ | known | environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    def said():
        return [one for one in output.read_text().splitlines() if one.startswith("PlanWatch ")]

    try:
        yield f"http://127.0.0.1:{port}/user/1", said
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(240)


@pytest.mark.parametrize("reload", ["--reload", "--no-reload"])
@pytest.mark.parametrize("planwatch", ["on", "off"])
def test_flask_run_says_it_once_before_any_request(story, tmp_path, reload, planwatch):
    begin = "PlanWatch watches 1 engine: " if planwatch == "on" else OFF
    options = ("--debug", reload)
    with flask_run(story, tmp_path, *options, SERVED_PLANWATCH=planwatch) as (url, said):
        assert becomes(said)
        assert fetch(url) == {"found": [1]}
        (line,) = said()
    assert line.startswith(begin)


def test_flask_run_is_silent_in_production(story, tmp_path):
    with flask_run(story, tmp_path, "--no-reload", SERVED_PLANWATCH="off") as (url, said):
        assert fetch(url) == {"found": [1]}
        assert said() == []


def test_it_asks_on_its_own_thread_and_connection(bare_logging, story, watch, capsys):
    bare_logging()
    watched = watch(story.url, DEBUG=True)
    with watched.app.app_context():
        asked = []
        sa.event.listen(
            watched.db.engine, "before_cursor_execute", lambda *args: asked.append(args[2])
        )
    watched.ask(sa.text("SELECT 1"))
    assert asked == ["SELECT 1"]
    assert "PlanWatch watches" in capsys.readouterr().err

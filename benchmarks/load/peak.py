"""Starts two servers and the people who log in, and measures one case after the other.

One server has PlanWatch, and one does not. People log in to them in turn, so that what else happens
on the machine happens to both.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import sqlalchemy as sa

from example_app import create_login
from example_app.extensions import db
from example_app.seeding import prepare
from example_app.stories.login import DEMO_PASSWORD, STORY

from .app import DATABASE_VARIABLE, LINES_VARIABLE
from .figures import (
    WITH_INDEXES,
    WITH_PLANWATCH,
    WITHOUT_INDEXES,
    WITHOUT_PLANWATCH,
    Case,
    Window,
)
from .orders import HOST, Answers, Order, address
from .processes import Failed, running
from .processor import postmaster_of, processor_seconds

WORKERS = 4

#: Seconds after a window: PlanWatch's thread looks every half second at what has come in, and what
#: it does then must not disturb the other server.
PAUSE = 0.7

#: Seconds in which a server must answer, and PlanWatch must have found all that is wrong.
PATIENCE = 60

_ROOT = Path(__file__).resolve().parents[2]
_FACTORIES = {WITHOUT_PLANWATCH: "without_planwatch", WITH_PLANWATCH: "with_planwatch"}


@dataclass(frozen=True)
class Size:
    """How much is measured: each case for about `seconds`, in windows of `window` seconds.

    So many `people` log in at the same time. `scale` is the share of the example's users to make.
    """

    seconds: float
    window: float
    people: int
    scale: float

    @property
    def turns(self) -> int:
        """How many windows each case has."""
        return max(1, round(self.seconds / self.window))


@dataclass(frozen=True)
class Work:
    """How often PlanWatch inspected a statement, and the rules by which it found something."""

    inspections: int
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Peak:
    """All cases, the indexes that PlanWatch advised, and what it did without and with them."""

    size: Size
    users: int
    cases: tuple[Case, ...]
    indexes: tuple[str, ...]
    work: Mapping[str, Work]

    def pairs(self) -> Iterator[tuple[Case, Case]]:
        """Return each case without PlanWatch, and the one with it."""
        return zip(self.cases[::2], self.cases[1::2], strict=True)


def measure(url: sa.URL, folder: Path, size: Size) -> Peak:
    """Measure the four cases on an empty database. `folder` is for the servers' logs."""
    users = _fill(url, size.scale)
    lines = folder / "lines"
    lines.touch()
    options = {
        "cwd": _ROOT,
        "env": {
            **os.environ,
            DATABASE_VARIABLE: url.render_as_string(hide_password=False),
            LINES_VARIABLE: str(lines),
        },
    }
    cases: list[Case] = []
    work = {}
    told = 0
    with (
        _gunicorn(WITHOUT_PLANWATCH, folder, **options) as without,
        _gunicorn(WITH_PLANWATCH, folder, **options) as watched,
        _crowd(folder, **options) as crowd,
    ):
        servers = {WITHOUT_PLANWATCH: without, WITH_PLANWATCH: watched}
        indexes = _advised(lines, watched.port)
        postmaster = postmaster_of(url)

        def window(name: str) -> Window:
            order = Order(servers[name].port, size.window, size.people, users)
            return _window(crowd, order, servers[name].process, postmaster)

        for state in (WITHOUT_INDEXES, WITH_INDEXES):
            if state == WITH_INDEXES:
                _create(url, indexes)
            windows: dict[str, list[Window]] = {name: [] for name in servers}
            # The first ones open connections and fill caches.
            for name in servers:
                window(name)
            for turn in range(size.turns):
                # Neither is always the first.
                for name in list(servers)[:: -1 if turn % 2 else 1]:
                    windows[name].append(window(name))
            cases += [Case(state, name, windows[name]) for name in servers]
            new = _lines(lines)[told:]
            told += len(new)
            work[state] = _work(new)
    return Peak(size, users, tuple(cases), tuple(indexes), work)


class Crowd:
    """Those who log in: a process that carries out one order after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def carry_out(self, order: Order) -> Answers:
        """Let them log in. Raise Failed if somebody is refused, or nobody gets in."""
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):
            print(json.dumps(asdict(order)), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise Failed("Locust has ended")
        answers = Answers(**json.loads(line))
        statuses = set(answers.statuses)
        if any(300 <= status < 500 for status in statuses) or 200 not in statuses:
            told = ", ".join(str(status or "nothing") for status in sorted(statuses))
            raise Failed(f"logins were answered with {told or 'nothing'}")
        return answers


@dataclass(frozen=True)
class Server:
    """One of the two servers of the app."""

    port: int
    process: psutil.Process


def _window(
    crowd: Crowd, order: Order, gunicorn: psutil.Process, postmaster: psutil.Process
) -> Window:
    database, app = processor_seconds(postmaster), processor_seconds(gunicorn)
    answers = crowd.carry_out(order)
    sleep(PAUSE)
    return Window(
        answers.seconds,
        answers.statuses,
        answers.latencies_ms,
        processor_seconds(postmaster) - database,
        processor_seconds(gunicorn) - app,
    )


@contextmanager
def _gunicorn(name: str, folder: Path, **options: Any) -> Iterator[Server]:
    """Serve one of the two apps."""
    with socket.create_server((HOST, 0), backlog=2048) as listener:
        command = [
            *(sys.executable, "-m", "gunicorn", "--workers", str(WORKERS)),
            # It would be the same in the home folder for both, and for any other Gunicorn.
            "--no-control-socket",
            *("--graceful-timeout", "5", "--bind", f"fd://{listener.fileno()}"),
            f"benchmarks.load.app:{_FACTORIES[name]}()",
        ]
        port = listener.getsockname()[1]
        log, passed = folder / f"{name}.log", [listener.fileno()]
        with running(command, log, pass_fds=passed, **options) as process:
            # Without a server that listens too, a request would wait for ever.
            listener.close()
            _log_in(port, 1)
            yield Server(port, psutil.Process(process.pid))


@contextmanager
def _crowd(folder: Path, **options: Any) -> Iterator[Crowd]:
    command = [sys.executable, "-m", "benchmarks.load.people"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(command, folder / "locust.log", **pipes, **options) as process:
        yield Crowd(process)


def _fill(url: sa.URL, scale: float) -> int:
    """Make the tables and the users; return how many there are."""
    app = create_login(url)
    with app.app_context():
        prepare(scale, [STORY])
        with db.engine.connect() as connection:
            users = connection.scalar(sa.text('SELECT count(*) FROM "user"'))
        for engine in db.engines.values():
            engine.dispose()
    return int(users or 0)


def _create(url: sa.URL, indexes: list[str]) -> None:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg2"),
        isolation_level="AUTOCOMMIT",
        poolclass=sa.NullPool,
    )
    with engine.connect() as connection:
        for statement in indexes:
            connection.exec_driver_sql(statement)
        for table in STORY.tables:
            name = engine.dialect.identifier_preparer.quote(table)
            connection.exec_driver_sql(f"VACUUM ANALYZE {name}")


def _advised(lines: Path, port: int) -> list[str]:
    """Log in until PlanWatch has found all that is wrong with that; return its indexes."""
    number, deadline = 1, monotonic() + PATIENCE
    while monotonic() < deadline:
        _log_in(port, number)
        found = _lines(lines)
        if {line.get("rule") for line in found} >= set(STORY.rules):
            return list(dict.fromkeys(ddl for line in found for ddl in line.get("ddl", ())))
        number += 1
    raise Failed(f"PlanWatch did not find {' and '.join(STORY.rules)} in {PATIENCE} s")


def _log_in(port: int, number: int) -> None:
    body = json.dumps({"email": address(number), "password": DEMO_PASSWORD}).encode()
    request = Request(
        f"http://{HOST}:{port}/login", body, headers={"Content-Type": "application/json"}
    )
    try:
        urlopen(request, timeout=PATIENCE).close()
    except HTTPError as error:
        raise Failed(f"a login was answered with {error.code}") from error
    except (URLError, OSError) as error:
        raise Failed(f"the app does not answer: {error}") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _work(lines: list[dict[str, Any]]) -> Work:
    return Work(
        inspections=sum("inspection" in line for line in lines),
        rules=tuple(sorted({line["rule"] for line in lines if "rule" in line})),
    )

"""PlanWatch behind real servers: Gunicorn with each kind of worker, and uWSGI."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from .databases import Database
from .servers import missing

pytestmark = [pytest.mark.slow, pytest.mark.versions]

GUNICORN = (
    sys.executable, "-m", "gunicorn", "--workers", "2", "--graceful-timeout", "20",
    "--bind", "127.0.0.1:{port}", "tests.served_app:app",
)  # fmt: skip
UWSGI = (
    "uwsgi", "--processes", "2", "--master", "--need-app", "--die-on-term", "--disable-logging",
    "--http-socket", "127.0.0.1:{port}", "--module", "tests.served_app:app",
)  # fmt: skip

#: Seconds that a busy machine gets for what takes one.
LONG = 300

BAD = "lower((email)::text)"

#: What a thread, a connection or a server that ended badly leaves in the error output.
TRACES = ("Traceback", "Exception ignored", "Fatal Python error", "SIGKILL")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url: str) -> dict:
    """Return what the server answers, as soon as it does."""
    deadline = time.monotonic() + LONG
    while True:
        try:
            with urllib.request.urlopen(url, timeout=LONG) as answer:
                return json.loads(answer.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen
    url: str
    log: Path
    errors: Path

    def lines(self) -> list[dict]:
        """Return what the app has written so far: records of PlanWatch's log, and connections."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def opened(self, *, own: bool) -> dict[int, int]:
        """Return who opened each connection: PlanWatch's `own`, or the app's."""
        return {line["backend"]: line["pid"] for line in self.lines() if line.get("own") is own}

    def found(self) -> set[int]:
        """Return the processes that reported the bad statement."""
        return {line["pid"] for line in self.lines() if line.get("expression") == BAD}

    def load(self, requests: int = 40) -> None:
        """Send requests from four threads; each must get its answer."""

        def ask(number: int) -> dict:
            path = "email" if number % 4 == 0 else "user"
            with urllib.request.urlopen(f"{self.url}{path}/{number}", timeout=LONG) as answer:
                return json.loads(answer.read())

        numbers = range(1, requests + 1)
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(ask, numbers)) == [{"found": [number]} for number in numbers]

    def stop(self) -> None:
        """Ask the server to end: it must do so in good order."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LONG) == 0
        errors = self.errors.read_text()
        assert not [trace for trace in TRACES if trace in errors], errors


@contextmanager
def serve(
    database: Database, folder: Path, *command: str, driver: str = "psycopg2", **environment: str
) -> Iterator[Served]:
    """Start a server, and wait until it answers."""
    if command[0] == "uwsgi":
        program = Path(sys.executable).with_name("uwsgi")
        if not program.exists():
            missing("no uWSGI: the package pyuwsgi is not installed")
        command = (str(program), *command[1:])
    port = free_port()
    log, errors = folder / "log", folder / "errors"
    log.touch()
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [part.format(port=port) for part in command],
            env={
                **os.environ,
                "SERVED_DATABASE_URL": database.url_for(driver),
                "SERVED_LOG": str(log),
                **environment,
            },
            stderr=stderr,
            stdout=stderr,
            start_new_session=True,
        )
    served = Served(process, f"http://127.0.0.1:{port}/", log, errors)
    try:
        fetch(served.url + "user/1")
        yield served
        served.stop()
        assert_no_connection(database)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def assert_no_connection(database: Database) -> None:
    deadline = time.monotonic() + LONG
    # PostgreSQL notices the end of a client a moment later.
    while (clients := database.clients()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert clients == set()


@pytest.mark.parametrize(
    ("command", "driver"),
    [
        pytest.param(GUNICORN, "psycopg2", id="sync"),
        pytest.param((*GUNICORN, "--preload"), "psycopg", id="sync-preload"),
        pytest.param((*GUNICORN, "--threads=4"), "psycopg", id="gthread"),
        pytest.param((*GUNICORN, "-k", "gevent"), "psycopg2", id="gevent-psycopg2"),
        pytest.param((*GUNICORN, "-k", "gevent"), "psycopg", id="gevent-psycopg"),
        pytest.param((*GUNICORN, "-k", "gevent", "--preload"), "psycopg", id="gevent-preload"),
        pytest.param((*UWSGI, "--enable-threads"), "psycopg2", id="uwsgi"),
        pytest.param((*UWSGI, "--lazy-apps", "--threads=2"), "psycopg", id="uwsgi-lazy"),
    ],
)
def test_every_process_reports_and_the_server_ends_well(story, tmp_path, command, driver):
    with serve(story, tmp_path, *command, driver=driver, SERVED_ASK_AT_IMPORT="1") as served:
        deadline = time.monotonic() + LONG
        while len(served.found()) < 2 and time.monotonic() < deadline:
            served.load()
        assert len(served.found()) == 2
        alive = story.clients()
        own = served.opened(own=True)
        # Each process uses a connection of its own, and not that of the process it is forked from.
        assert served.found() <= set(own.values())
        assert set(Counter(own[backend] for backend in alive & set(own)).values()) == {1}
        assert alive <= set(own) | set(served.opened(own=False))
        process = fetch(served.url + "process")
        assert process["threads"].count("flask-planwatch") == 1
        assert process["stats"]["errors"] == 0
        assert process["stats"]["skipped"] == {}


@pytest.mark.parametrize(
    ("command", "driver"),
    [
        pytest.param((*GUNICORN, "--max-requests=20"), "psycopg2", id="sync"),
        pytest.param(
            (*GUNICORN, "--max-requests=20", "--preload", "--threads=4"), "psycopg2", id="gthread"
        ),
        pytest.param(
            (*GUNICORN, "--max-requests=20", "--preload", "-k", "gevent"), "psycopg", id="gevent"
        ),
        pytest.param((*UWSGI, "--max-requests=20", "--enable-threads"), "psycopg2", id="uwsgi"),
    ],
)
def test_processes_that_are_replaced_under_load(story, tmp_path, command, driver):
    with serve(story, tmp_path, *command, driver=driver, SERVED_ASK_AT_IMPORT="1") as served:
        deadline, rest = time.monotonic() + 5 * LONG, 0.0
        while len(served.found()) < 3 and time.monotonic() < deadline:
            served.load(8)
            # A busy machine needs longer for an inspection than a process lives under load.
            time.sleep(rest)
            rest += 0.1
        assert len(served.found()) >= 3
        assert served.found() <= set(served.opened(own=True).values())


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(GUNICORN, id="sync"),
        pytest.param((*GUNICORN, "-k", "gevent"), id="gevent"),
        pytest.param((*UWSGI, "--enable-threads"), id="uwsgi"),
    ],
)
def test_the_end_does_not_wait_for_an_inspection(story, tmp_path, command):
    """PlanWatch's thread is held up for a minute: far longer than the server may take."""
    with serve(story, tmp_path, *command, SERVED_HOLD="1") as served:
        deadline = time.monotonic() + LONG
        while not served.opened(own=True) and time.monotonic() < deadline:
            served.load(8)
        assert served.opened(own=True)
        assert served.found() == set()


def test_a_uwsgi_without_threads_is_left_alone(story, tmp_path):
    with serve(story, tmp_path, *UWSGI) as served:
        if fetch(served.url + "process")["has_threads"]:
            pytest.skip("this uWSGI always runs threads")
        served.load()
        assert fetch(served.url + "process")["stats"]["captured"] == 0
        (line,) = [line for line in served.lines() if "message" in line]
        assert "enable-threads" in line["message"]
        assert served.opened(own=True) == {}

"""The wall clock jumps in the middle of a run, by libfaketime: what counts time must not notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .. import servers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faketime():
    """The library that is put between a program and its clock."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        servers.missing("faketime is not installed")
    return str(libraries[0])


def report(faketime, url, clock, jump, *, enabled):
    clock.write_text("+0")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.clock_app", url, str(clock), jump, str(enabled)],
        env=os.environ
        | {
            "LD_PRELOAD": faketime,
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            # A monotonic clock does not jump.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("jump", "seconds"), [("+1h", 3600), ("-1h", -3600)])
def test_a_clock_that_jumps(small_server, faketime, tmp_path, jump, seconds):
    clock, url = tmp_path / "clock", small_server.url()
    without = report(faketime, url, clock, jump, enabled=False)
    seen = report(faketime, url, clock, jump, enabled=True)
    assert seen["jumped"] == pytest.approx(seconds, abs=60)
    assert seen["answers"] == without["answers"] == ["[]", "[]", "[(1,)]", "[]"]
    assert seen["flushed"] == [True, True]
    stats = seen["stats"]
    # Not again within the interval, though the clock says that it is over.
    assert (stats["captured"], stats["inspected"]) == (4, 2)
    assert (stats["skipped"], stats["errors"], stats["waiting"]) == ({}, 0, 0)
    assert seen["rules"] == ["functional-predicate"]

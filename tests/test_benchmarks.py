"""The benchmark runs: with as few statements as it can, and all that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import servers

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_smallest_run(tmp_path):
    server = servers.find_server(servers.FIRST)
    path = tmp_path / "results.json"
    variants = ["empty", "planwatch", "planwatch-sampled", "opentelemetry-off", "flask-sqlalchemy"]
    sizes = {"sittings": 1, "rounds": 2, "statements": 2, "pairs": 1, "seconds": 0.5, "logged": 2}
    sizes["imports"] = 1
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--driver", "psycopg", "--json", str(path)),
            *(f"--variant={name}" for name in variants),
            *(f"--{name}={size}" for name, size in sizes.items()),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PLANWATCH_BENCHMARK_DATABASE_URL": server.url.render_as_string(hide_password=False),
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())

    assert results["import"]["ms"] > 0
    (cost,) = results["statement_cost"]
    left_out = cost["unavailable"]
    for figures in cost["added_us"].values():
        assert {name for name, clocks in figures.items() if clocks} == {*variants} - {*left_out}
    assert set(left_out) <= {"opentelemetry-off"}
    # Each of the sampled ones was captured, and none of the others.
    facts = cost["facts"]
    assert facts["planwatch"]["inspected"] < facts["planwatch"]["captured"] / 2
    sampled = facts["planwatch-sampled"]
    assert sampled["inspected"] + sum(sampled["skipped"].values()) == sampled["captured"]

    assert {one["kind"] for one in results["interference"]} == {
        "known statements",
        "new statements",
    }
    assert all(one["rate"] > 0 and one["per_second"] > 0 for one in results["interference"])
    assert len(results["seconds_to_log"]["psycopg"]) == 2
    assert results["goals"]


@pytest.mark.slow
def test_each_cache_can_be_done_without():
    server = servers.find_server(servers.FIRST)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.caches", "--rounds=1", "--repeated=3", "--json"],
        cwd=ROOT,
        env={
            **os.environ,
            "PLANWATCH_BENCHMARK_DATABASE_URL": server.url.render_as_string(hide_password=False),
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert set(results) == {"good", "bad"}
    for figures in results.values():
        assert {"all", "none"} < set(figures)
        assert len(figures) > 12
        assert all(len(times) == 3 and min(times) > 0 for times in figures.values())
    # Without its cache, a statement is judged anew each time.
    (without,) = (times for name, times in results["bad"].items() if name.startswith("results"))
    assert without[1] > results["bad"]["all"][1]

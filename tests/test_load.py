"""The morning peak: its figures and its picture, and a run that is as small as it can be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from xml.etree import ElementTree

import psutil
import pytest

from benchmarks.load.figures import (
    WITH_INDEXES,
    WITH_PLANWATCH,
    WITHOUT_INDEXES,
    WITHOUT_PLANWATCH,
    Case,
    Price,
    Window,
    price,
    results_table,
)
from benchmarks.load.picture import picture
from benchmarks.load.processor import processor_seconds

from .servers import short_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"

#: px of a letter at the picture's sizes, in a font that is wider than most; and the narrow ones.
WIDE, BY_CLASS, NARROW = 8.3, {"title": 11.4, "head": 9.0}, " .,·:;()|il"


def window(per_second: float, *, ms: float = 100, status: int = 200, own: float = 0.0) -> Window:
    """A window of ten seconds."""
    requests = round(10 * per_second)
    return Window(10.0, [status] * requests, [ms] * requests, 1.0, 1.0 + own)


def case(planwatch: str, *windows: Window, indexes: str = WITH_INDEXES) -> Case:
    return Case(indexes, planwatch, windows)


def four_cases(**failing: int) -> list[Case]:
    return [
        case(WITHOUT_PLANWATCH, window(20, ms=1500, **failing), indexes=WITHOUT_INDEXES),
        case(WITH_PLANWATCH, window(19, ms=1600), indexes=WITHOUT_INDEXES),
        case(WITHOUT_PLANWATCH, window(300, ms=90)),
        case(WITH_PLANWATCH, window(297, ms=91)),
    ]


def results(cases: list[Case]) -> dict:
    prices = [price(*cases[:2]), price(*cases[2:])]
    return {
        "size": {"people": 32},
        "users": 200_000,
        "workers": 4,
        "processors": 2,
        "cases": [one.data() for one in cases],
        "prices": [one.data() for one in prices],
        "goals": [{"limit": 2.0}],
    }


def test_the_price_is_that_of_windows_beside_each_other():
    """The machine became ten times slower meanwhile, and PlanWatch always took 1%."""
    speeds = [300, 250, 200, 150, 100, 50, 30]
    without = case(WITHOUT_PLANWATCH, *(window(n, ms=3000 / n) for n in speeds))
    with_it = case(WITH_PLANWATCH, *(window(n * 0.99, ms=3030 / n) for n in speeds))
    found = price(without, with_it)
    assert found.throughput == pytest.approx((1, 1, 1), abs=0.4)
    assert found.p95 == pytest.approx((1, 1, 1), abs=0.01)
    assert found.verdict(found.throughput) == "met"


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ((0.99,) * 7, "met"),
        ((0.90,) * 7, "missed"),
        ((0.90, 0.99, 1.0, 1.0, 1.0, 1.1, 0.90), "met, not for certain"),
        ((0.90, 0.95, 0.95, 0.95, 1.0, 1.1, 1.1), "missed, not for certain"),
        ((1.0, 1.0), "met, not for certain"),
    ],
)
def test_what_the_interval_leaves_open_is_said(shares, verdict):
    without = case(WITHOUT_PLANWATCH, *(window(300) for _ in shares))
    found = price(without, case(WITH_PLANWATCH, *(window(300 * share) for share in shares)))
    assert found.verdict(found.throughput) == verdict
    assert found.goals[0].met == verdict.startswith("met")


def test_the_price_in_processor_time():
    windows = [window(100, own=share) for share in (0.1, 0.2, 0.3)]
    found = price(case(WITHOUT_PLANWATCH, *[window(100)] * 3), case(WITH_PLANWATCH, *windows))
    assert found.processor == pytest.approx((10, 5, 15))


def test_a_failure_is_no_login_and_counts_for_its_kind():
    mixed = Window(1.0, [200, 200, 200, 503, 0], [10, 20, 30, 40, 30_000], 0.3, 0.1)
    data = case(WITH_PLANWATCH, mixed).data()
    assert data["logins_per_second"] == 3
    assert data["5xx_percent"] == 20
    assert data["no_answer_percent"] == 20
    assert data["p50_ms"] == 30
    assert data["database_ms_per_login"] == pytest.approx(100)
    # Who waited in vain has waited too.
    assert data["p99_ms"] > 20_000


def test_the_table_has_each_case_and_ends_with_the_prices():
    cases = four_cases(status=500)
    cases[0] = case(
        WITHOUT_PLANWATCH, window(20, ms=1500), window(1, status=500), indexes=WITHOUT_INDEXES
    )
    prices = [Price(WITH_INDEXES, 9, *[price(*cases[2:]).throughput] * 3)]
    head, *rows, empty, price_head, price_row = results_table(cases, prices).splitlines()
    assert [row.split("  ")[0] for row in rows] == [one.name for one in cases]
    assert "4.8%" in rows[0]
    assert "300.0" in rows[2]
    assert not empty
    assert price_head.startswith("PlanWatch's price")
    assert price_row.split("  ")[0] == WITH_INDEXES
    assert "+1.0" in price_row
    assert price_row.count("  met") == 2
    assert head.split() == results_table(cases, []).splitlines()[0].split()


def drawn(cases: list[Case]) -> ElementTree.Element:
    return ElementTree.fromstring(picture(results(cases)))


def texts(svg: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


def test_the_picture_shows_the_figures():
    shown = texts(drawn(four_cases()))
    for words in (
        *("20", "19", "300", "297"),
        *("1.50 · 1.50 · 1.50 s", "91 · 91 · 91 ms", "5.0 ms · 0.1 cores"),
        *("+1.0% (+1.0 … +1.0)", "+6.7% (+6.7 … +6.7)", "+5.0% (+5.0 … +5.0)"),
        "Each login was answered, and none with 5xx.",
    ):
        assert words in shown


def test_a_bar_is_as_long_as_its_figure():
    bars = [
        float(bar.get("width", 0))
        for bar in drawn(four_cases()).iter(f"{SVG}rect")
        if bar.get("opacity")
    ]
    # With PlanWatch before without, without the indexes before with them.
    slow, slow_bare, fast, fast_bare = bars[:4]
    assert fast_bare == max(bars)
    assert [slow, slow_bare, fast] == pytest.approx(
        [fast_bare * 19 / 300, fast_bare * 20 / 300, fast_bare * 297 / 300], abs=0.1
    )


def test_a_wide_interval_leaves_room_for_the_next():
    cases = [
        case(WITHOUT_PLANWATCH, *[window(100)] * 6),
        case(WITH_PLANWATCH, *[window(share) for share in (10, 60, 80, 95, 140, 150)]),
    ]
    svg = drawn(cases * 2)
    assert "+12% (\N{MINUS SIGN}50 … +90)" in texts(svg)


def test_failures_are_drawn_where_there_are_any():
    cases = four_cases()
    failed = Window(1.0, [200, 500, 0, 200], [10] * 4, 0.1, 0.1)
    cases[0] = case(WITHOUT_PLANWATCH, failed, indexes=WITHOUT_INDEXES)
    shown = texts(drawn(cases))
    assert "Answered with 5xx, or not at all" in shown
    assert "50.0%" in shown


@pytest.mark.parametrize("per_second", [0.2, 20, 12_345])
def test_no_text_leaves_the_card(per_second):
    cases = [
        Case(one.indexes, one.planwatch, [window(per_second, ms=9000), window(1, ms=12_000)])
        for one in four_cases()
    ]
    svg = drawn(cases)
    width = float(svg.get("width", 0))
    for text in svg.iter(f"{SVG}text"):
        letter = BY_CLASS.get(text.get("class", ""), WIDE)
        wide = sum(letter / (2 if one in NARROW else 1) for one in text.text or "")
        assert float(text.get("x", 0)) + wide < width, text.text


def test_processor_time_of_children_that_ended():
    """A process burns the time that it is told in a child, which ends."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    program = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {burn!r}])\n"
        "print('ended', flush=True)\n"
        "input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ended\n"
        parent = psutil.Process(process.pid)
        assert processor_seconds(parent) - sum(parent.cpu_times()[:2]) > 0.25
        process.stdin.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for all that a run leaves behind; nothing may still work there at the end."""
    folder = short_folder()
    yield folder
    assert not processes_in(folder)
    assert not list(folder.glob("planwatch-*"))


def processes_in(folder: Path) -> list[str]:
    """Return the processes that have the folder as their place for temporary files."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder):
                found.append(f"{process.pid} {process.cmdline()}")
        except psutil.Error:
            continue
    return found


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load", *options, "--scale", "0.1"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(1800)
def test_the_smallest_run(folder, tmp_path):
    output = tmp_path / "peak"
    process = start(folder, "--seconds=2", "--window=1", "--people=8", f"--output={output}")
    printed, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors
    found = json.loads(output.with_suffix(".json").read_text())
    assert len(found["cases"]) == 4
    for one in found["cases"]:
        assert len(one["windows"]) == 2
        assert one["logins_per_second"] > 0
        assert one["app_seconds"] > 0
        assert one["5xx_percent"] == one["no_answer_percent"] == 0
        assert one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
    # Both are found, and what was advised is what helps.
    assert found["work"][WITHOUT_INDEXES]["rules"] == ["functional-predicate", "missing-index"]
    slow, _, fast, _ = (one["database_ms_per_login"] for one in found["cases"])
    assert slow > 2 * fast
    assert output.with_suffix(".txt").read_text() in printed
    assert output.with_suffix(".svg").read_text() == picture(found)


@pytest.mark.timeout(1800)
def test_an_interrupted_run_leaves_nothing_behind(folder, tmp_path):
    process = start(folder, "--seconds=600", f"--output={tmp_path / 'peak'}")
    deadline = monotonic() + 1200
    while not any("benchmarks.load.people" in one for one in processes_in(folder)):
        assert process.poll() is None, process.stderr.read()
        assert monotonic() < deadline
        sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=1500)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "Stopped."
    assert not list(tmp_path.iterdir())

"""Lets many people log in at once, prints what became of them, and draws it.

The exit status says only whether it could be measured: goals that are missed are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from click import ClickException

from example_app.server import embedded_server

from .. import report
from ..server import server_version
from .figures import price, results_table
from .peak import WORKERS, Size, measure
from .picture import picture
from .processes import Failed, unwind_on_signals

#: Bounds, so that a wrong option keeps no machine busy for long.
MOST_SECONDS, MOST_PEOPLE = 600, 200


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    seconds = _between(0.5, MOST_SECONDS)
    parser.add_argument("--seconds", type=seconds, default=60, help="for each of the four cases")
    parser.add_argument("--window", type=seconds, default=3, help="seconds before the cases change")
    parser.add_argument(
        "--people", type=_between(1, MOST_PEOPLE, int), default=32, help="who log in at once"
    )
    parser.add_argument("--scale", type=_between(0.01, 10), default=1, help="1 makes 200,000 users")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/images/morning-peak"),
        help="what to write, without .json, .txt and .svg",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: draw what the JSON says"
    )
    return parser.parse_args()


def _between(least: float, most: float, kind: type[float] = float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value

    return number


def main() -> None:
    """Measure, print, write and draw."""
    given = _arguments()
    if not given.redraw:
        unwind_on_signals()
        try:
            _measure(given)
        except KeyboardInterrupt:
            sys.exit("Stopped.")
        except ClickException as error:
            sys.exit(error.message)
        except Failed as error:
            sys.exit("\n".join([f"Failed: {error}", *getattr(error, "__notes__", [])]))
    results = json.loads(given.output.with_suffix(".json").read_text())
    given.output.with_suffix(".svg").write_text(picture(results))
    print(f"Drawn: {given.output.with_suffix('.svg')}")


def _measure(given: argparse.Namespace) -> None:
    size = Size(given.seconds, given.window, given.people, given.scale)
    with (
        # A Unix socket's path may have 107 bytes only.
        tempfile.TemporaryDirectory(prefix="planwatch-", ignore_cleanup_errors=True) as folder,
        embedded_server(Path(folder)) as url,
    ):
        peak = measure(url, Path(folder), size)
        version = server_version(url)
    prices = [price(*pair) for pair in peak.pairs()]
    table = results_table(peak.cases, prices)
    print(f"\n{table}\n")
    for indexes, work in peak.work.items():
        found = f"found {' and '.join(work.rules)}" if work.rules else "found nothing wrong"
        print(f"PlanWatch, {indexes}: {work.inspections} inspections; it {found}.")
    for statement in peak.indexes:
        print(f"It advised: {statement}")
    report.write(
        given.output.with_suffix(".json"),
        {
            "processors": os.cpu_count(),
            "workers": WORKERS,
            "users": peak.users,
            "size": asdict(size),
            "indexes": peak.indexes,
            "work": {indexes: asdict(work) for indexes, work in peak.work.items()},
            "cases": [case.data() for case in peak.cases],
            "prices": [one.data() for one in prices],
        },
        [goal for one in prices for goal in one.goals],
        version,
    )
    given.output.with_suffix(".txt").write_text(table + "\n")


if __name__ == "__main__":
    main()

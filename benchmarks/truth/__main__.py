"""Follows PlanWatch's advice for real, and says whether it was true.

The exit status is 1 if a goal is missed, or not all is measured yet.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from ..estimate import Goal
from ..load.processes import unwind_on_signals
from . import judged, tables
from .processor import Unmeasurable
from .programme import Programme, Size
from .results import OutOfTime, Results
from .servers import BUILD_VARIABLE, HYPOPG_VARIABLE, Server, servers

#: Below it, the keys of TPC-H's generator repeat themselves.
_SMALLEST_SCALE = 0.01

#: Bounds, so that a wrong option keeps no machine busy for long.
_LARGEST_SCALE, _MOST_SECONDS, _MOST_MINUTES = 1.0, 600.0, 600.0

_SERVERS = ("build", "HypoPG")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.truth",
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog=f"{BUILD_VARIABLE} names a server for the trials that build indexes; without it, "
        f"one is started. {HYPOPG_VARIABLE} names a server with HypoPG; without it, there are no "
        "trials with HypoPG. Both must be on this machine, with nothing else to do, and their role "
        "a superuser.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("benchmarks/results/truth.json"),
        help="what to write, and to go on with",
    )
    parser.add_argument(
        "--scale",
        type=_between(_SMALLEST_SCALE, _LARGEST_SCALE),
        default=judged.FULL_SCALE,
        help="of TPC-H; the other data shrink with it",
    )
    parser.add_argument(
        "--seconds", type=_between(0.1, _MOST_SECONDS), default=20, help="for each statement"
    )
    parser.add_argument(
        "--longest",
        type=_between(0.1, _MOST_SECONDS),
        default=30,
        help="seconds until an execution is cancelled",
    )
    parser.add_argument(
        "--minutes",
        type=_between(0.1, _MOST_MINUTES),
        default=90,
        help="after which no statement is begun; run the command again to go on",
    )
    parser.add_argument("--server", action="append", choices=_SERVERS, help="all, if not given")
    parser.add_argument(
        "--only", default="", help="statements whose name has this regular expression in it"
    )
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    return parser.parse_args()


def _between(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value

    return number


def main() -> None:
    """Measure, print the tables and the goals, and exit with what they come to."""
    given = _arguments()
    unwind_on_signals()
    size = Size(given.scale, given.seconds, given.longest)
    options = {**asdict(size), "only": given.only}
    results = Results(given.json, options, given.minutes, fresh=given.fresh)
    try:
        with servers(given.server or _SERVERS) as found:
            complete = _run(found, size, results, re.compile(given.only))
    except KeyboardInterrupt:
        sys.exit("Stopped. Run the command again to go on.")
    except (Unmeasurable, FileNotFoundError) as error:
        sys.exit(str(error))
    goals = _report(results, size.scale, found)
    results.save()
    if not complete:
        print("Not complete. Run the command again to go on.")
    sys.exit(not complete or not all(goal.met for goal in goals))


def _run(found: list[Server], size: Size, results: Results, only: re.Pattern[str]) -> bool:
    started = monotonic()

    def say(what: str) -> None:
        print(f"{monotonic() - started:6.0f} s  {what}", file=sys.stderr, flush=True)

    for server in found:
        results.part(server.name, "about")["version"] = server.version()
        programme = Programme(
            server, size, results, lambda name: only.search(name) is not None, say
        )
        try:
            programme.run()
        except OutOfTime:
            return False
    return True


def _report(results: Results, scale: float, found: list[Server]) -> list[Goal]:
    goals: list[Goal] = []
    for server in found:
        cases = results.part(server.name, "cases")
        tpch = results.part(server.name, "tpch")
        print(f"\nPlanWatch tries indexes by: {server.name}\n")
        print(*tables.text(server.name, cases, tpch), sep="\n")
        goals += judged.goals(server.name, cases, tpch, scale)
    print("", *goals, sep="\n")
    results.goals = [{**asdict(goal), "met": goal.met} for goal in goals]
    return goals


if __name__ == "__main__":
    main()

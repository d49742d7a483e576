"""Measures what PlanWatch costs, prints it, and writes it as JSON.

The exit status says only whether it could be measured: goals that are missed are printed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import median

from . import import_cost, interference, report, statement_cost
from .server import VARIABLE, database, one_processor, server_version
from .variants import VARIANTS
from .workload import MAX_STATEMENTS

DRIVERS = ("psycopg2", "psycopg")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog=f"{VARIABLE} names a server; without it, one is started.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--json", type=Path, default=Path("benchmarks/results/latest.json"), help="what to write"
    )
    parser.add_argument("--driver", action="append", choices=DRIVERS, help="all, if not given")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="all, if not given")
    parser.add_argument("--sittings", type=int, default=3, help="each has new processes")
    parser.add_argument("--rounds", type=int, default=60, help="in each sitting; 0: none")
    parser.add_argument(
        "--statements",
        type=int,
        default=40,
        choices=range(1, MAX_STATEMENTS + 1),
        metavar="NUMBER",
        help=f"in each block, at most {MAX_STATEMENTS}",
    )
    parser.add_argument(
        "--pairs", type=int, default=80, help="of windows for the interference; 0: none"
    )
    parser.add_argument("--seconds", type=float, default=0.4, help="the length of a window")
    parser.add_argument("--logged", type=int, default=20, help="bad statements to hear of; 0: none")
    parser.add_argument("--imports", type=int, default=10, help="new processes; 0: none")
    parser.add_argument(
        "--clock",
        choices=statement_cost.CLOCKS,
        default=statement_cost.CLOCKS[0],
        help="what to print; thread: without the server, and steadier on a busy machine",
    )
    return parser.parse_args()


def main() -> None:
    """Measure what was asked for, print it and write it."""
    chosen = _arguments()
    variants = [
        name
        for name in VARIANTS
        if chosen.variant is None or name in {statement_cost.BARE, *chosen.variant}
    ]
    drivers = chosen.driver or DRIVERS
    costs, interferences, log_seconds = [], [], {}
    version = ""
    imported = import_cost.measure(drivers[0], chosen.imports) if chosen.imports else None
    if imported:
        print(imported, end="\n\n", flush=True)
    if chosen.rounds:
        # The server that is started here runs on it, too.
        with one_processor(), database() as url:
            version = server_version(url)
            for driver in drivers:
                cost = statement_cost.measure(
                    url,
                    driver,
                    variants,
                    sittings=chosen.sittings,
                    rounds=chosen.rounds,
                    statements=chosen.statements,
                )
                print(report.statement_cost_table(cost, chosen.clock), end="\n\n", flush=True)
                costs.append(cost)
    if chosen.pairs or chosen.logged:
        with database() as url:
            version = server_version(url)
            for driver in drivers if chosen.pairs else ():
                for one in interference.measure(
                    url, driver, pairs=chosen.pairs, seconds=chosen.seconds
                ):
                    print(one, flush=True)
                    interferences.append(one)
            for driver in drivers if chosen.logged else ():
                taken = log_seconds[driver] = interference.seconds_to_log(
                    url, driver, chosen.logged
                )
                print(f"{driver}: a bad statement's log line after {median(taken):.2f} s (median)")
    goals = [
        *(imported.goals() if imported else ()),
        *(goal for cost in costs for goal in statement_cost.goals(cost, chosen.clock)),
        *(goal for one in interferences for goal in one.goals()),
        *(interference.log_goal(driver, taken) for driver, taken in log_seconds.items()),
    ]
    print("", *goals, sep="\n")
    data = {
        "import": asdict(imported) if imported else None,
        "statement_cost": [report.statement_cost_data(cost) for cost in costs],
        "interference": [asdict(one) for one in interferences],
        "seconds_to_log": log_seconds,
    }
    report.write(chosen.json, data, goals, version)


if __name__ == "__main__":
    main()

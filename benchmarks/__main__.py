"""Measures what PlanWatch costs, prints it, and writes it as JSON.

The exit status says only whether it could be measured: goals that are missed are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import report, statement_cost
from .server import VARIABLE, database, server_version
from .variants import VARIANTS

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
    parser.add_argument("--rounds", type=int, default=60, help="in each sitting")
    parser.add_argument("--statements", type=int, default=40, help="in each block, at most 90")
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
    results = []
    with database() as url:
        for driver in chosen.driver or DRIVERS:
            result = statement_cost.measure(
                url,
                driver,
                variants,
                sittings=chosen.sittings,
                rounds=chosen.rounds,
                statements=chosen.statements,
            )
            print(report.statement_cost_table(result, chosen.clock), end="\n\n", flush=True)
            results.append(result)
        version = server_version(url)
    goals = [goal for result in results for goal in statement_cost.goals(result, chosen.clock)]
    print(*goals, sep="\n")
    costs = [report.statement_cost_data(result) for result in results]
    report.write(chosen.json, {"statement_cost": costs}, goals, version)


if __name__ == "__main__":
    main()

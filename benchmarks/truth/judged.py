"""The goals, and which of the results meet them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..estimate import Goal
from .measuring import BEFORE

#: The variants of a statement, besides what it was before: with what is advised for it, in the form
#: that is advised, with all that is advised for all, and with what a greedy search chooses.
ADVISED, REWRITTEN, UNION, GREEDY = "advised", "rewritten", "union", "greedy"

#: A statement may take so many times its processor time with what is advised for it: two runs of
#: the same differ by less.
DEAREST = 1.05

#: Of what its finding names, a verified advice saves this share, or it was not worth a word.
SAVES = 0.30

#: Percent of verified advice that may save less.
MAY_SAVE_LESS = 10.0

#: The scale of TPC-H for which the goals are stated.
FULL_SCALE = 0.2

#: All that is advised for TPC-H: indexes, and MB at the full scale, of which the tables have 330.
MOST_INDEXES, MOST_MB = 12, 200.0

#: Seconds that PlanWatch may need for a statement, by how it tries an index.
MOST_SECONDS = {"build": 5.0, "HypoPG": 0.3}

Entry = Mapping[str, Any]
#: The entries of a part by the name of the statement.
Entries = Mapping[str, Entry]


def ratio(entry: Entry, variant: str) -> float:
    """Return the processor time of a variant as a multiple of what it was before."""
    measured = entry["variants"].get(variant)
    return 1.0 if measured is None else float(measured["ratio"]["value"])


def ratio_of_advice(entry: Entry) -> float | None:
    """Return the ratio of what is verified for a statement; None if nothing is, or can be applied.

    The dearer one, if there are indexes and another form of the statement.
    """
    ratios = [ratio(entry, name) for name in (ADVISED, REWRITTEN) if name in entry["variants"]]
    if not ratios and entry["commands"]:
        return 1.0
    return max(ratios, default=None)


def saved_of_named(entry: Entry) -> float | None:
    """Return which share of what the findings of a statement name was saved by their advice."""
    found = ratio_of_advice(entry)
    return None if found is None else (1 - found) / float(entry["named"])


def dearer(entries: Entries, variant: str | None = None) -> Iterator[str]:
    """Yield the statements that are dearer than a goal allows."""
    for name, entry in entries.items():
        found = ratio(entry, variant) if variant else ratio_of_advice(entry)
        if found is not None and found > DEAREST:
            yield name


def saving_too_little(entries: Entries) -> Iterator[str]:
    """Yield the statements whose verified advice saves too little of what was named."""
    for name, entry in entries.items():
        saved = saved_of_named(entry)
        if saved is not None and saved < SAVES:
            yield name


def slow(server: str, entries: Entries) -> Iterator[str]:
    """Yield the statements for which PlanWatch needs longer than a goal allows."""
    for name, entry in entries.items():
        if entry["planwatch_ms"] > MOST_SECONDS[server] * 1000:
            yield name


def goals(server: str, cases: Entries, tpch: Mapping[str, Any], scale: float) -> Iterator[Goal]:
    """Yield the goals of one server, with what was measured of them."""
    queries: Entries = tpch.get("queries", {})
    entries = {**cases, **queries}
    ratios = [found for found in map(ratio_of_advice, entries.values()) if found is not None]
    if ratios:
        name = "CPU time of a statement with its verified advice"
        yield Goal(f"{server}: {name}", max(ratios), DEAREST, "times")
        few = 100 * len(list(saving_too_little(entries))) / len(ratios)
        name = f"verified advice that saves less than {SAVES:.0%} of what was named"
        yield Goal(f"{server}: {name}", few, MAY_SAVE_LESS, "%")
    if queries:
        union = tpch["union"]
        most_mb = MOST_MB * scale / FULL_SCALE
        yield Goal(f"{server}: indexes for TPC-H", union["indexes"], MOST_INDEXES, "indexes")
        yield Goal(f"{server}: their size", union["bytes"] / 1e6, most_mb, "MB")
        dearest = max(ratio(entry, UNION) for entry in queries.values())
        yield Goal(f"{server}: CPU time of a query with all of them", dearest, DEAREST, "times")
        with_union, with_greedy = total_ms(queries, UNION), total_ms(queries, GREEDY)
        name = "all queries with them, and with as many of a greedy search"
        yield Goal(f"{server}: {name}", with_union, with_greedy, "ms of CPU time")
    if entries:
        slowest = max(entry["planwatch_ms"] for entry in entries.values()) / 1000
        yield Goal(f"{server}: PlanWatch for a statement", slowest, MOST_SECONDS[server], "s")


def total_ms(queries: Entries, variant: str) -> float:
    """Return the processor time of all queries in one variant."""
    return sum(ms(entry, variant) for entry in queries.values())


def ms(entry: Entry, variant: str) -> float:
    """Return the processor time of one variant, or what it was before if nothing changed."""
    variants = entry["variants"]
    return float(variants.get(variant, variants[BEFORE])["ms"])


def count_of_advice(entries: Iterable[Entry]) -> int:
    """Return how many statements have advice that is verified and was applied."""
    return sum(ratio_of_advice(entry) is not None for entry in entries)

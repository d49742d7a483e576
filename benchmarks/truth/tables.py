"""The results as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..report import table
from .judged import (
    ADVISED,
    GREEDY,
    REWRITTEN,
    UNION,
    Entries,
    Entry,
    count_of_advice,
    dearer,
    ratio,
    ratio_of_advice,
    saved_of_named,
    saving_too_little,
    slow,
    total_ms,
)
from .measuring import BEFORE

_HEAD = (
    "statement",
    "before ms",
    "after ms",
    "ratio",
    "of named",
    "pages before",
    "after",
    "indexes",
    "MB",
    "PlanWatch ms",
    "finding",
)

#: What the verdicts of a statement come to, the first that applies.
_VERDICTS = ("verified", "untested", "rejected", "not-applicable")


def text(server: str, cases: Entries, tpch: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one server's tables."""
    queries: Entries = tpch.get("queries", {})
    if cases:
        rows = [_HEAD, *(_row(name, entry) for name, entry in cases.items())]
        yield from table(rows)
        yield ""
    if queries:
        rows = [
            (*_HEAD, UNION, GREEDY),
            *(
                (*_row(name, entry), _times(ratio(entry, UNION)), _times(ratio(entry, GREEDY)))
                for name, entry in queries.items()
            ),
            _sums(queries, tpch["union"]),
        ]
        yield from table(rows)
        yield ""
        yield from _sets(tpch)
    entries = {**cases, **queries}
    yield from _faults(entries)
    for name in slow(server, entries):
        yield f"Slow: {name}: PlanWatch needed {entries[name]['planwatch_ms']:.0f} ms"


def _row(name: str, entry: Entry) -> tuple[str, ...]:
    found = ratio_of_advice(entry)
    after = REWRITTEN if ADVISED not in entry["variants"] else ADVISED
    measured, saved = entry["variants"].get(after), saved_of_named(entry)
    before = entry["variants"][BEFORE]
    advised = measured is not None and found is not None
    return (
        name,
        _cell(before),
        _cell(measured) if advised else "",
        _times(found) if found is not None else "",
        f"{saved:.0%}" if saved is not None else "",
        _pages(before),
        _pages(measured) if advised else "",
        str(entry["indexes"] or ""),
        f"{entry['bytes'] / 1e6:.1f}" if entry["indexes"] else "",
        f"{entry['planwatch_ms']:.0f}",
        _said(entry),
    )


def _sums(queries: Entries, union: Mapping[str, Any]) -> tuple[str, ...]:
    before, advised = total_ms(queries, BEFORE), total_ms(queries, ADVISED)
    return (
        "all",
        f"{before:.1f}",
        f"{advised:.1f}",
        _times(advised / before),
        "",
        "",
        "",
        str(union["indexes"]),
        f"{union['bytes'] / 1e6:.1f}",
        "",
        "",
        _times(total_ms(queries, UNION) / before),
        _times(total_ms(queries, GREEDY) / before),
    )


def _sets(tpch: Mapping[str, Any]) -> Iterator[str]:
    for name, commands in ((UNION, tpch["union"]["commands"]), (GREEDY, tpch["greedy"])):
        yield f"{name}: {len(commands)} commands"
        yield from (f"    {command}" for command in commands)
    yield ""


def _faults(entries: Entries) -> Iterator[str]:
    """Yield what was said that is not so, a statement each."""
    yield f"{count_of_advice(entries.values())} statements have verified advice that was followed."
    for name in dearer(entries):
        yield f"Dearer: {name}: {_advice(entries[name])}"
    for name in dearer(entries, UNION):
        yield f"Dearer with all indexes: {name}: {ratio(entries[name], UNION):.2f} times"
    for name in saving_too_little(entries):
        yield f"Saves too little: {name}: {_advice(entries[name])}"
    for name, entry in entries.items():
        yield from (f"Refused by the server: {name}: {said}" for said in entry.get("failed", ()))
        yield from (f"Not followed: {name}: {said}" for said in entry["not_applied"])
        if entry.get("sound") and entry["findings"] and ratio_of_advice(entry) is None:
            yield f"Said of a sound statement: {name}: {_said(entry)}"


def _advice(entry: Entry) -> str:
    found = ratio_of_advice(entry)
    return f"{found:.2f} times, {'; '.join(entry['commands']) or 'rewritten'}"


def _said(entry: Entry) -> str:
    rules = dict.fromkeys(found["rule"] for found in entry["findings"])
    verdicts = {advice["verdict"] for found in entry["findings"] for advice in found["advice"]}
    verdict = next((one for one in _VERDICTS if one in verdicts), "")
    return f"{', '.join(rules)} {f'({verdict})' if verdict else ''}".strip() or "-"


def _cell(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return ""
    return f"{'over ' if measured['cancelled'] else ''}{measured['ms']:.1f}"


def _pages(measured: Mapping[str, Any] | None) -> str:
    return "" if measured is None or measured["buffers"] is None else str(measured["buffers"])


def _times(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.4f}"

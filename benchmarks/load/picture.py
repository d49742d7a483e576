"""Draws the results as an SVG that can be read in light and in dark, and on a narrow screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from typing import Any

from .figures import WITH_PLANWATCH

#: Pixels. A picture of this width is still readable on a screen of 390 pixels.
_WIDTH, _MARGIN = 440, 16

#: Where bars begin, how long the longest one is, and how high they are.
_BARS, _LONGEST, _HEIGHT, _PITCH = 100, 172, 12, 17

#: The second column of PlanWatch's price.
_SECOND = 266

_STYLE = """
  .card { fill: #ffffff; stroke: #d9dee5 }
  text { fill: #1d2430; font: 13px system-ui, sans-serif }
  .title { font-size: 18px; font-weight: 600 }
  .head { font-size: 14px; font-weight: 600 }
  .quiet { fill: #55606f }
  .with { fill: #22577a }
  .without { fill: #929eae }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1c222b; stroke: #323b47 }
    text { fill: #e4e8ee }
    .quiet { fill: #a3aebc }
    .with { fill: #8cc4ea }
    .without { fill: #6b7787 }
  }
"""

#: How strong the part of a bar is that ends at p50, p95 and p99.
_STRENGTHS = (1, 0.6, 0.3)

_MINUS = "\N{MINUS SIGN}"

_LATENCIES = ("p50_ms", "p95_ms", "p99_ms")


class _Sheet:
    """What is drawn so far, from top to bottom."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.bottom = _MARGIN

    def line(self, words: str, style: str = "", *, left: float = _MARGIN, height: int = 18) -> None:
        """Write a line below all else."""
        self.bottom += height
        self.text(words, style, left=left, base=self.bottom)

    def text(self, words: str, style: str = "", *, left: float, base: float) -> None:
        """Write words that stand on `base`."""
        chosen = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{left:g}" y="{base:g}"{chosen}>{escape(words)}</text>')

    def bar(self, style: str, length: float, top: float, strength: float = 1) -> None:
        """Draw a bar; the shortest can still be seen."""
        self.parts.append(
            f'<rect class="{style}" x="{_BARS}" y="{top:g}" width="{max(1, length):.1f}" '
            f'height="{_HEIGHT}" opacity="{strength:g}"/>'
        )


def picture(results: Mapping[str, Any]) -> str:
    """Return the SVG of what was written as JSON."""
    cases, size = results["cases"], results["size"]
    sheet = _Sheet()
    sheet.line("The morning peak", "title")
    for words in (
        f"{size['people']} of {results['users']:,} users at a time log in without a pause.",
        f"{results['workers']} workers of Gunicorn, PostgreSQL and the users share",
        f"{results['processors']} cores. The indexes are those that PlanWatch advised.",
    ):
        sheet.line(words, "quiet")
    _legend(sheet)
    _section(
        sheet,
        "Logins per second",
        cases,
        lambda case: [case["logins_per_second"]],
        lambda case: f"{case['logins_per_second']:.0f}",
    )
    _section(
        sheet,
        "Half, 95% and 99% are answered within",
        cases,
        lambda case: [case[name] for name in _LATENCIES],
        lambda case: _times([case[name] for name in _LATENCIES]),
    )
    _section(
        sheet,
        "Database: CPU time per login · cores in use",
        cases,
        lambda case: [case["database_ms_per_login"]],
        lambda case: f"{case['database_ms_per_login']:.1f} ms · {case['database_cores']:.1f} cores",
    )
    if any(map(_failed, cases)):
        _section(
            sheet,
            "Answered with 5xx, or not at all",
            cases,
            lambda case: [_failed(case)],
            lambda case: f"{_failed(case):.1f}%",
        )
    else:
        sheet.line("Each login was answered, and none with 5xx.", height=24)
    _prices(sheet, results)
    return _document(sheet)


def _legend(sheet: _Sheet) -> None:
    sheet.bottom += 26
    left = _MARGIN
    for style, words in (("with", "with PlanWatch"), ("without", "without PlanWatch")):
        sheet.parts.append(
            f'<rect class="{style}" x="{left}" y="{sheet.bottom - 11}" width="12" height="12"/>'
        )
        sheet.text(words, left=left + 18, base=sheet.bottom)
        left += 140


def _section(
    sheet: _Sheet,
    title: str,
    cases: Iterable[Mapping[str, Any]],
    values: Callable[[Mapping[str, Any]], list[float]],
    words: Callable[[Mapping[str, Any]], str],
) -> None:
    """Draw a bar for each case. Several values of one case share its bar, the largest weakest."""
    sheet.line(title, "head", height=30)
    sheet.bottom += 8
    longest = max(max(values(case)) for case in cases) or 1
    for indexes, group in _by_indexes(cases):
        middle = sheet.bottom + _PITCH * len(group) / 2 + 2
        sheet.text(indexes, left=_MARGIN, base=middle)
        for case in group:
            style = "with" if case["planwatch"] == WITH_PLANWATCH else "without"
            lengths = [_LONGEST * value / longest for value in values(case)]
            for length, strength in reversed(list(zip(lengths, _STRENGTHS, strict=False))):
                sheet.bar(style, length, sheet.bottom, strength)
            base = sheet.bottom + _HEIGHT - 1
            sheet.text(words(case), left=_BARS + max(lengths) + 6, base=base)
            sheet.bottom += _PITCH
        sheet.bottom += 4


def _prices(sheet: _Sheet, results: Mapping[str, Any]) -> None:
    goal = results["goals"][0]["limit"]
    sheet.line(f"What PlanWatch takes; the goal is {goal:g}% at most", "head", height=28)
    sheet.line("of the throughput", "quiet", left=_BARS, height=20)
    sheet.text("of p95", "quiet", left=_SECOND, base=sheet.bottom)
    for price in results["prices"]:
        sheet.line(_short(price["indexes"]), height=19)
        sheet.text(_estimate(price["throughput_lost_percent"]), left=_BARS, base=sheet.bottom)
        sheet.text(_estimate(price["p95_slower_percent"]), left=_SECOND, base=sheet.bottom)
    sheet.line("In brackets: the 95% confidence interval.", "quiet", height=22)


def _by_indexes(
    cases: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Return the cases with the same indexes, the one with PlanWatch first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for case in cases:
        groups.setdefault(case["indexes"], []).insert(0, case)
    for indexes, group in groups.items():
        yield _short(indexes), group


def _failed(case: Mapping[str, Any]) -> float:
    """Return how many of the logins failed, in %."""
    failed: float = case["5xx_percent"] + case["no_answer_percent"]
    return failed


def _short(indexes: str) -> str:
    return indexes.replace("without the", "no").replace("with the ", "")


def _times(milliseconds: list[float]) -> str:
    """Return times with one unit for all of them."""
    longest = max(milliseconds)
    if longest < 1000:
        return " · ".join(f"{ms:.0f}" for ms in milliseconds) + " ms"
    digits = 2 if longest < 10_000 else 1
    return " · ".join(f"{ms / 1000:.{digits}f}" for ms in milliseconds) + " s"


def _estimate(estimate: Mapping[str, float]) -> str:
    value, low, high = (_signed(estimate[name]) for name in ("value", "low", "high"))
    return f"{value}% ({low} … {high})"


def _signed(percent: float) -> str:
    """Return a figure that is as short as its size allows."""
    digits = 1 if abs(percent) < 10 else 0
    return f"{percent:+.{digits}f}".replace("-", _MINUS)


def _document(sheet: _Sheet) -> str:
    height = sheet.bottom + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" '
            f'width="{_WIDTH}" height="{height:g}" role="img" aria-labelledby="title">',
            '<title id="title">The morning peak: logins without and with the indexes that '
            "PlanWatch advised, and what PlanWatch itself takes</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1:g}" '
            'rx="8"/>',
            *sheet.parts,
            "</svg>\n",
        ]
    )

"""What was measured: windows, the cases that they make up, and PlanWatch's price."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..estimate import Estimate, Goal, median_of, quantile
from ..report import table
from .orders import NO_ANSWER

#: % of the throughput, and of p95, that PlanWatch may take.
MAX_PRICE = 2.0

#: With fewer pairs of windows, their smallest and largest hold the true median with less than 95%.
MIN_PAIRS = 6

WITHOUT_INDEXES, WITH_INDEXES = "without the indexes", "with the indexes"
WITHOUT_PLANWATCH, WITH_PLANWATCH = "without PlanWatch", "with PlanWatch"


@dataclass(frozen=True)
class Window:
    """Some seconds of one case, from the first request to the last answer.

    A status of NO_ANSWER stands for none. `database_seconds` and `app_seconds` are the processor
    time of PostgreSQL and of Gunicorn.
    """

    seconds: float
    statuses: Sequence[int]
    latencies_ms: Sequence[float]
    database_seconds: float
    app_seconds: float

    @property
    def logins(self) -> int:
        """How many succeeded."""
        return sum(200 <= status < 300 for status in self.statuses)

    @property
    def per_second(self) -> float:
        """How many succeeded in a second."""
        return self.logins / self.seconds

    @property
    def p95_ms(self) -> float:
        """What nineteen of twenty requests took at most."""
        return quantile(sorted(self.latencies_ms), 0.95)

    @property
    def processor_ms(self) -> float:
        """The processor time of a login in the app and in the database."""
        return 1000 * (self.database_seconds + self.app_seconds) / max(1, self.logins)

    def data(self) -> dict[str, float]:
        """Return the figures for JSON."""
        return {
            "logins_per_second": self.per_second,
            "p95_ms": self.p95_ms,
            "processor_ms_per_login": self.processor_ms,
        }


@dataclass(frozen=True)
class Case:
    """All windows with or without the indexes, and with or without PlanWatch."""

    indexes: str
    planwatch: str
    windows: Sequence[Window]

    @property
    def name(self) -> str:
        """Return how a table calls it."""
        return f"{self.indexes}, {self.planwatch}"

    @property
    def seconds(self) -> float:
        """How long it was measured."""
        return sum(window.seconds for window in self.windows)

    @property
    def logins(self) -> int:
        """How many succeeded."""
        return sum(window.logins for window in self.windows)

    @property
    def database_seconds(self) -> float:
        """The processor time of PostgreSQL."""
        return sum(window.database_seconds for window in self.windows)

    @property
    def app_seconds(self) -> float:
        """The processor time of Gunicorn."""
        return sum(window.app_seconds for window in self.windows)

    def latency_ms(self, share: float) -> float:
        """Return what this share of the requests took at most, whatever the answer was."""
        return quantile(sorted(ms for one in self.windows for ms in one.latencies_ms), share)

    def percent(self, wanted: Callable[[int], bool]) -> float:
        """Return how many of the requests had such a status, in %."""
        statuses = [status for window in self.windows for status in window.statuses]
        return 100 * sum(map(wanted, statuses)) / len(statuses)

    def data(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "indexes": self.indexes,
            "planwatch": self.planwatch,
            "seconds": self.seconds,
            "logins_per_second": self.logins / self.seconds,
            "p50_ms": self.latency_ms(0.50),
            "p95_ms": self.latency_ms(0.95),
            "p99_ms": self.latency_ms(0.99),
            "5xx_percent": self.percent(lambda status: status >= 500),
            "no_answer_percent": self.percent(lambda status: status == NO_ANSWER),
            "database_seconds": self.database_seconds,
            "database_cores": self.database_seconds / self.seconds,
            "database_ms_per_login": 1000 * self.database_seconds / max(1, self.logins),
            "app_seconds": self.app_seconds,
            "app_ms_per_login": 1000 * self.app_seconds / max(1, self.logins),
            "windows": [window.data() for window in self.windows],
        }


@dataclass(frozen=True)
class Price:
    """What PlanWatch takes, in %: medians over its windows and the ones beside them without it."""

    indexes: str
    pairs: int
    throughput: Estimate
    p95: Estimate
    processor: Estimate

    @property
    def goals(self) -> tuple[Goal, Goal]:
        """What it may be at most."""
        return (
            Goal(f"throughput lost {self.indexes}", self.throughput.value, MAX_PRICE, "%"),
            Goal(f"p95 slower {self.indexes}", self.p95.value, MAX_PRICE, "%"),
        )

    def verdict(self, estimate: Estimate) -> str:
        """Return whether the goal was met, and whether that is beyond doubt."""
        if estimate.high < 0:
            # PlanWatch makes nothing faster: something else differed between the two servers.
            return "cannot be told"
        word = "met" if estimate.value <= MAX_PRICE else "missed"
        if self.pairs < MIN_PAIRS or estimate.low <= MAX_PRICE < estimate.high:
            return f"{word}, not for certain"
        return word

    def data(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "indexes": self.indexes,
            "pairs": self.pairs,
            "throughput_lost_percent": self.throughput._asdict(),
            "throughput_goal": self.verdict(self.throughput),
            "p95_slower_percent": self.p95._asdict(),
            "p95_goal": self.verdict(self.p95),
            "more_processor_time_percent": self.processor._asdict(),
        }


def price(without: Case, with_it: Case) -> Price:
    """Compare each window with PlanWatch with the one beside it."""
    pairs = list(zip(without.windows, with_it.windows, strict=True))
    return Price(
        without.indexes,
        len(pairs),
        median_of(100 * (1 - mine.per_second / other.per_second) for other, mine in pairs),
        median_of(100 * (mine.p95_ms / other.p95_ms - 1) for other, mine in pairs),
        median_of(100 * (mine.processor_ms / other.processor_ms - 1) for other, mine in pairs),
    )


def results_table(cases: Iterable[Case], prices: Iterable[Price]) -> str:
    """Return a row for each case, and PlanWatch's price as the last ones."""
    goal = f"goal: {MAX_PRICE:g}%"
    return "\n".join(
        [
            *table([("", *_HEADS), *map(_case_row, cases)]),
            "",
            *table(
                [
                    ("PlanWatch's price", "throughput", goal, "p95", goal, "CPU time of a login"),
                    *map(_price_row, prices),
                ]
            ),
        ]
    )


_HEADS = (
    *("logins/s", "p50", "p95", "p99", "5xx", "no answer"),
    *("database's CPU", "for a login", "app's CPU for a login"),
)


def _case_row(case: Case) -> tuple[str, ...]:
    data = case.data()
    return (
        case.name,
        f"{data['logins_per_second']:.1f}",
        *(f"{data[name]:.0f} ms" for name in ("p50_ms", "p95_ms", "p99_ms")),
        *(f"{data[name]:.1f}%" for name in ("5xx_percent", "no_answer_percent")),
        f"{case.database_seconds:.1f} s in {case.seconds:.0f} s",
        f"{data['database_ms_per_login']:.1f} ms",
        f"{data['app_ms_per_login']:.1f} ms",
    )


def _price_row(price: Price) -> tuple[str, ...]:
    return (
        price.indexes,
        f"{price.throughput}%",
        price.verdict(price.throughput),
        f"{price.p95}%",
        price.verdict(price.p95),
        f"{price.processor}%",
    )

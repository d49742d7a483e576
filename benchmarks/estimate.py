"""Medians, how sure they are, and the goals that they are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import NamedTuple

#: Of the normal distribution: 95% lie within so many standard deviations.
_TWO_SIDED_95 = 1.96


class Estimate(NamedTuple):
    """A median, and the interval in which the true one lies with 95% confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} ({self.low:+.1f} … {self.high:+.1f})"


def median_of(values: Iterable[float]) -> Estimate:
    """Return the median of the values; its interval assumes nothing about their distribution."""
    ordered = sorted(values)
    last = len(ordered) - 1
    # The number of values below the true median has a binomial distribution.
    reach = _TWO_SIDED_95 * sqrt(len(ordered)) / 2
    low, high = max(0, floor(last / 2 - reach)), min(last, ceil(last / 2 + reach))
    return Estimate(quantile(ordered, 0.5), ordered[low], ordered[high])


def quantile(ordered: list[float], share: float) -> float:
    """Return the value below which this share of the ordered values lies."""
    position = share * (len(ordered) - 1)
    below, above = ordered[floor(position)], ordered[ceil(position)]
    return below + (above - below) * (position - floor(position))


@dataclass(frozen=True)
class Goal:
    """A figure that must not be above its limit."""

    name: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether it is not."""
        return self.value <= self.limit

    def __str__(self) -> str:
        word = "met   " if self.met else "MISSED"
        return f"{word}  {self.value:8.2f} of at most {self.limit:.2f} {self.unit}  {self.name}"

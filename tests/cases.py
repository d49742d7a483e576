"""Which cases of a test are run by those who wait, and which by those who do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(count: int, cases: Iterable[Any]) -> list[Any]:
    """Mark all but the first cases as slow: they show the same on more statements."""
    listed = list(cases)
    return [*listed[:count], *map(_slow, listed[count:])]


def _slow(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)

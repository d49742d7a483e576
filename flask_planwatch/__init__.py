"""Shows a Flask developer what PostgreSQL plans to do with each SQLAlchemy statement."""

from __future__ import annotations

from .extension import PlanWatch
from .failure import StatementError
from .finding import (
    Advice,
    AdviceKind,
    Dismissal,
    Finding,
    Inspection,
    Location,
    Severity,
    Skip,
    SkipReason,
    Statement,
    Verdict,
    VerdictStatus,
)
from .settings import SettingError

__all__ = [
    "Advice",
    "AdviceKind",
    "Dismissal",
    "Finding",
    "Inspection",
    "Location",
    "PlanWatch",
    "SettingError",
    "Severity",
    "Skip",
    "SkipReason",
    "Statement",
    "StatementError",
    "Verdict",
    "VerdictStatus",
]

"""The active findings of one app in this process, and what each inspection changed in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

from ..finding import Finding, Inspection
from ..runtime.bounded import FINDINGS, RecentlyUsed
from ..runtime.clock import now

#: Active findings that are kept. Far more than a team can read; the oldest goes first.
MAX_FINDINGS = 1000

#: A finding that was not raised for so long, in seconds, is gone if other values do without it: as
#: long as a finding is not logged again by default.
STALE_SECONDS = 3600.0


@dataclass(frozen=True)
class Changes:
    """What one inspection changed: findings that are new, seen again, and gone."""

    detected: tuple[Finding, ...] = ()
    repeated: tuple[Finding, ...] = ()
    resolved: tuple[Finding, ...] = ()


class Store:
    """Keeps each active finding by its id.

    PlanWatch's thread records; all else is safe to call from any thread.
    """

    def __init__(self, clock: Callable[[], float] = now) -> None:
        self._clock = clock
        self._active: RecentlyUsed[str, Finding] = RecentlyUsed(FINDINGS, MAX_FINDINGS)
        #: When each was last raised.
        self._raised: RecentlyUsed[str, float] = RecentlyUsed(FINDINGS, MAX_FINDINGS)

    def record(self, inspection: Inspection) -> Changes:
        """Take in an inspection and return what changed."""
        detected: list[Finding] = []
        repeated: list[Finding] = []
        for finding in inspection.findings:
            known = self._active.get(finding.id)
            (detected if known is None else repeated).append(finding)
            self._active.keep(finding.id, finding)
            self._raised.keep(finding.id, self._clock())
        # An inspection says nothing of other statements.
        fingerprint = inspection.statement.fingerprint
        earlier = [old for old in self._active.values() if old.fingerprint == fingerprint]
        resolved = [old for old in earlier if inspection.settles(old, stale=self._is_stale(old))]
        replaced = [old for old in earlier if inspection.replaces(old)]
        for finding in (*resolved, *replaced):
            self._active.pop(finding.id)
            self._raised.pop(finding.id)
        resolved = [replace(old, location=inspection.location or old.location) for old in resolved]
        return Changes(tuple(detected), tuple(repeated), tuple(resolved))

    def findings(self) -> tuple[Finding, ...]:
        """Return the active findings: most severe first, then those with advice, then by rows."""
        return tuple(sorted(self._active.values(), key=_by_weight))

    def statements(self, group: Hashable) -> int:
        """Return how many statements have an active finding of this group."""
        active = self._active.values()
        return len({finding.fingerprint for finding in active if finding.group == group})

    def saved_ms(self, group: Hashable, but: str = "") -> float:
        """Return what the statements with a finding of this group save by its advice, in ms.

        `but` is the fingerprint of a statement that does not count.
        """
        return _saved(
            finding
            for finding in self._active.values()
            if finding.group == group and finding.fingerprint != but
        )

    def clear(self) -> None:
        """Forget all findings, without calling them resolved."""
        self._active.clear()
        self._raised.clear()

    def _is_stale(self, finding: Finding) -> bool:
        return self._clock() - self._raised.get(finding.id, self._clock()) >= STALE_SECONDS


def _saved(findings: Iterable[Finding]) -> float:
    """Return what statements save by the advice that their findings share, each statement once."""
    saved = dict[str, float]()
    for finding in findings:
        saved[finding.fingerprint] = max(saved.get(finding.fingerprint, 0.0), finding.saves_ms)
    return sum(saved.values())


def _by_weight(finding: Finding) -> tuple[int, bool, float, str]:
    return (finding.severity.rank, not finding.advice, -finding.table_rows, finding.id)

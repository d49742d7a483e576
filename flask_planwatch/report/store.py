"""The active findings of one app in this process, and what each inspection changed in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
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
        """Return the active findings: most severe first, then by what all with the same fix save.

        If they save the same, as all do at first, those with advice come first, then those with
        more rows.
        """
        groups = by_fix(self._active.values())
        weights = {group[0].group: _weight(group) for group in groups}
        everyone = (finding for group in groups for finding in group)
        return tuple(
            sorted(
                everyone,
                key=lambda finding: (
                    finding.severity.rank,
                    weights[finding.group],
                    -finding.saves_ms,
                    finding.id,
                ),
            )
        )

    def __len__(self) -> int:
        """Return how many active findings there are."""
        return len(self._active)

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


def _weight(group: Sequence[Finding]) -> tuple[float, bool, float, str]:
    """Return what comes first among fixes: less is earlier, and no two are equal."""
    rows = max(finding.table_rows for finding in group)
    name = min(finding.id for finding in group)
    return (-_saved(group), not group[0].advice, -rows, name)


def by_fix(findings: Iterable[Finding]) -> list[tuple[Finding, ...]]:
    """Return findings by the fix that they share, in the order of the first of each."""
    groups: dict[Hashable, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.group, []).append(finding)
    return [tuple(group) for group in groups.values()]

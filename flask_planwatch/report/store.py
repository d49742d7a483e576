"""The active findings of one app in this process, and what each inspection changed in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import ref

from ..capture.statistics import StatementStatistics
from ..finding import Finding, Inspection
from ..runtime.bounded import FINDINGS, RecentlyUsed
from ..runtime.clock import now
from ..settings import LOG_INTERVAL

#: Active findings that are kept. Far more than a team can read; the oldest goes first.
MAX_FINDINGS = 1000

#: Texts of one statement, with other literals, whose time is added up.
MAX_TEXTS = 100

#: Bytes that the time of a text takes.
TIME_SIZE = 100

#: A finding that was not raised for so long, in seconds, is gone if other values do without it: as
#: long as a finding is not logged again by default.
STALE_SECONDS = LOG_INTERVAL


@dataclass(frozen=True)
class Changes:
    """What one inspection changed: findings that are new, seen again, and gone."""

    detected: tuple[Finding, ...] = ()
    repeated: tuple[Finding, ...] = ()
    resolved: tuple[Finding, ...] = ()


class Store:
    """Keeps each active finding by its id.

    `share_of` returns which share of the database time so many ms are, None if that says little.
    PlanWatch's thread records; all else is safe to call from any thread.
    """

    def __init__(
        self,
        clock: Callable[[], float] = now,
        share_of: Callable[[float], float | None] = lambda total_ms: None,
    ) -> None:
        self._clock = clock
        self._share_of = share_of
        #: How long each statement took, by fingerprint: the statistics of its texts.
        self._times: RecentlyUsed[str, tuple[ref[StatementStatistics], ...]] = RecentlyUsed(
            FINDINGS, MAX_FINDINGS
        )
        self._active: RecentlyUsed[str, Finding] = RecentlyUsed(FINDINGS, MAX_FINDINGS)
        #: When each was last raised.
        self._raised: RecentlyUsed[str, float] = RecentlyUsed(FINDINGS, MAX_FINDINGS)

    def record(
        self, inspection: Inspection, statistics: StatementStatistics | None = None
    ) -> Changes:
        """Take in an inspection, with the statistics of the statement, and return what changed."""
        if inspection.findings and statistics is not None:
            self._add_time(inspection.statement.fingerprint, statistics)
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
        return Changes(*map(self.described, (detected, repeated, resolved)))

    def findings(self) -> tuple[Finding, ...]:
        """Return the active findings: most severe first, then by what all with the same fix save.

        If they save the same, as all do at first, those with advice come first, then those with
        more rows.
        """
        groups = by_fix(self._active.values())
        weights = {group[0].group: _weight(group) for group in groups}
        everyone = (finding for group in groups for finding in group)
        ordered = sorted(
            everyone,
            key=lambda finding: (
                finding.severity.rank,
                weights[finding.group],
                -finding.saves_ms,
                finding.id,
            ),
        )
        return self.described(ordered)

    def __len__(self) -> int:
        """Return how many active findings there are."""
        return len(self._active)

    def described(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Return findings with the number and the time of the statements that each advice serves.

        These are the statements with an active finding that asks for the same.
        """
        findings = list(findings)
        served: dict[Hashable, set[str]] = {}
        wanted = {change for finding in findings for change in finding.changes}
        for active in self._active.values() if findings else ():
            for change in wanted.intersection(active.changes):
                served.setdefault(change, set()).add(active.fingerprint)
        return tuple(self._described(finding, served) for finding in findings)

    def _described(self, finding: Finding, served: Mapping[Hashable, set[str]]) -> Finding:
        counted = [
            (len(fingerprints), self._share(fingerprints))
            for fingerprints in (served.get(change, set()) for change in finding.changes)
        ]
        advice = tuple(
            replace(advice, statements=statements, time_share=share)
            for advice, (statements, share) in zip(finding.advice, counted, strict=False)
        )
        statements, share = counted[0]
        return replace(finding, advice=advice, statements=statements, time_share=share)

    def _share(self, fingerprints: Iterable[str]) -> float | None:
        """Return which share of the database time some statements took, None if it is not known."""
        times = [
            time() for fingerprint in fingerprints for time in self._times.get(fingerprint, ())
        ]
        known = [statistics.total_ms for statistics in times if statistics is not None]
        return self._share_of(sum(known)) if known else None

    def _add_time(self, fingerprint: str, statistics: StatementStatistics) -> None:
        known = [time for time in self._times.get(fingerprint, ()) if time() is not None]
        if all(time() is not statistics for time in known):
            known = [*known, ref(statistics)][-MAX_TEXTS:]
        self._times.keep(fingerprint, tuple(known), len(known) * TIME_SIZE)

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
        self.forget_times()

    def forget_times(self) -> None:
        """Forget how long the statements took, until they are inspected again."""
        self._times.clear()

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

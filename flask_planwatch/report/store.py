"""The active findings of one app in this process, and what each inspection changed in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from weakref import ref

from ..capture.database_time import saves_little, saves_much, share_of
from ..capture.statistics import StatementStatistics
from ..finding import Finding, Inspection, Severity
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


class _Raised(NamedTuple):
    """When a finding was last raised, and which part of its statement's time its fix saves."""

    moment: float
    part: float


class Store:
    """Keeps each active finding by its id.

    `database_ms` returns the database time that PlanWatch saw so far, in ms.
    PlanWatch's thread records; all else is safe to call from any thread.
    """

    def __init__(
        self,
        clock: Callable[[], float] = now,
        database_ms: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._database_ms = database_ms
        #: How long each statement took, by fingerprint: the statistics of its texts.
        self._times: RecentlyUsed[str, tuple[ref[StatementStatistics], ...]] = RecentlyUsed(
            FINDINGS, MAX_FINDINGS
        )
        self._active: RecentlyUsed[str, Finding] = RecentlyUsed(FINDINGS, MAX_FINDINGS)
        self._raised: RecentlyUsed[str, _Raised] = RecentlyUsed(FINDINGS, MAX_FINDINGS)

    def record(
        self, inspection: Inspection, statistics: StatementStatistics | None = None
    ) -> Changes:
        """Take in an inspection, with the statistics of the statement, and return what changed."""
        if inspection.findings and statistics is not None:
            self._add_time(inspection.statement.fingerprint, statistics)
        detected: list[Finding] = []
        repeated: list[Finding] = []
        total_ms = statistics.total_ms if statistics is not None else 0.0
        for finding in inspection.findings:
            known = self._active.get(finding.id)
            (detected if known is None else repeated).append(finding)
            self._active.keep(finding.id, finding)
            part = finding.saves_ms / total_ms if total_ms else 0.0
            self._raised.keep(finding.id, _Raised(self._clock(), part))
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
        current = self.described(self._active.values())
        weights = {group[0].group: self._weight(group) for group in by_fix(current)}
        return tuple(
            sorted(
                current,
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

    def described(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Return findings as they are now: what they save, and how grave that is.

        They have the number and the time of the statements that each advice serves: of those with
        an active finding that asks for the same.
        """
        findings = list(findings)
        served: dict[Hashable, set[str]] = {}
        groups = {group[0].group: [*group] for group in by_fix(findings)}
        wanted = {change for finding in findings for change in finding.changes}
        for active in self._active.values() if findings else ():
            for change in wanted.intersection(active.changes):
                served.setdefault(change, set()).add(active.fingerprint)
            if active.group in groups:
                groups[active.group].append(active)
        saved = {group: self._saved(members) for group, members in groups.items()}
        return tuple(self._described(finding, served, saved[finding.group]) for finding in findings)

    def _described(
        self, finding: Finding, served: Mapping[Hashable, set[str]], saved_ms: float
    ) -> Finding:
        counted = [
            (len(fingerprints), self._share(fingerprints))
            for fingerprints in (served.get(change, set()) for change in finding.changes)
        ]
        advice = tuple(
            replace(advice, statements=statements, time_share=share)
            for advice, (statements, share) in zip(finding.advice, counted, strict=False)
        )
        statements, share = counted[0]
        return replace(
            finding,
            severity=self._severity(finding, saved_ms),
            advice=advice,
            saves_ms=self._saves_ms(finding),
            statements=statements,
            time_share=share,
        )

    def _severity(self, finding: Finding, saved_ms: float) -> Severity:
        """Return how grave a finding is now, if all with the same fix save so much."""
        failed = finding.error is not None and finding.error.means_load
        if finding.severity is not Severity.WARNING or failed:
            return finding.severity
        little = saves_little(saved_ms, self._database_ms())
        return Severity.INFO if little else Severity.WARNING

    def _saves_ms(self, finding: Finding) -> float:
        """Return what the fix saves of the time that the statement has taken by now, in ms."""
        raised, time_ms = self._raised.get(finding.id), self._time_ms({finding.fingerprint})
        if raised is None or time_ms is None:
            return finding.saves_ms
        return max(finding.saves_ms, round(raised.part * time_ms, 3))

    def _share(self, fingerprints: Iterable[str]) -> float | None:
        """Return which share of the database time some statements took, None if it is not known."""
        time_ms = self._time_ms(fingerprints)
        return None if time_ms is None else share_of(time_ms, self._database_ms())

    def _time_ms(self, fingerprints: Iterable[str]) -> float | None:
        """Return how long some statements took so far, in ms, None if it is not known."""
        times = [
            time() for fingerprint in fingerprints for time in self._times.get(fingerprint, ())
        ]
        known = [statistics.total_ms for statistics in times if statistics is not None]
        return sum(known) if known else None

    def _add_time(self, fingerprint: str, statistics: StatementStatistics) -> None:
        known = [time for time in self._times.get(fingerprint, ()) if time() is not None]
        if all(time() is not statistics for time in known):
            known = [*known, ref(statistics)][-MAX_TEXTS:]
        self._times.keep(fingerprint, tuple(known), len(known) * TIME_SIZE)

    def saved_ms(self, group: Hashable, but: str = "") -> float:
        """Return what the statements with a finding of this group save by its advice, in ms.

        `but` is the fingerprint of a statement that does not count.
        """
        return self._saved(
            finding
            for finding in self._active.values()
            if finding.group == group and finding.fingerprint != but
        )

    def saves_much(self, finding: Finding) -> bool:
        """Whether the fix of an active finding saves much of the database time."""
        return saves_much(self.saved_ms(finding.group), self._database_ms())

    def _saved(self, findings: Iterable[Finding]) -> float:
        """Return what statements save by the advice that they share, each one once."""
        saved = dict[str, float]()
        for finding in findings:
            known = saved.get(finding.fingerprint, 0.0)
            saved[finding.fingerprint] = max(known, self._saves_ms(finding))
        return sum(saved.values())

    def _weight(self, group: Sequence[Finding]) -> tuple[float, bool, float, str]:
        """Return what comes first among fixes: less is earlier, and no two are equal."""
        rows = max(finding.table_rows for finding in group)
        name = min(finding.id for finding in group)
        return (-self._saved(group), not group[0].advice, -rows, name)

    def clear(self) -> None:
        """Forget all findings, without calling them resolved."""
        self._active.clear()
        self._raised.clear()
        self.forget_times()

    def forget_times(self) -> None:
        """Forget how long the statements took, until they are inspected again."""
        self._times.clear()

    def _is_stale(self, finding: Finding) -> bool:
        raised = self._raised.get(finding.id)
        return raised is not None and self._clock() - raised.moment >= STALE_SECONDS


def by_fix(findings: Iterable[Finding]) -> list[tuple[Finding, ...]]:
    """Return findings by the fix that they share, in the order of the first of each."""
    groups: dict[Hashable, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.group, []).append(finding)
    return [tuple(group) for group in groups.values()]

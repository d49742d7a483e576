"""The active findings of one app in this process, and what each inspection changed in them."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass, replace

from ..finding import Finding, Inspection
from ..room import FINDINGS, Latest

#: Active findings that are kept. Far more than a team can read; the oldest goes first.
MAX_FINDINGS = 1000


@dataclass(frozen=True)
class Changes:
    """What one inspection changed: findings that are new, seen again, and gone."""

    detected: tuple[Finding, ...] = ()
    repeated: tuple[Finding, ...] = ()
    resolved: tuple[Finding, ...] = ()


class Store:
    """Keeps each active finding by its id. Safe to use from several threads."""

    def __init__(self) -> None:
        self._active: Latest[str, Finding] = Latest(FINDINGS, MAX_FINDINGS)
        self._lock = threading.Lock()

    def record(self, inspection: Inspection) -> Changes:
        """Take in an inspection and return what changed."""
        detected: list[Finding] = []
        repeated: list[Finding] = []
        with self._lock:
            for finding in inspection.findings:
                known = self._active.get(finding.id)
                (detected if known is None else repeated).append(finding)
                self._active.keep(finding.id, finding)
            # An inspection says nothing of other statements.
            fingerprint = inspection.statement.fingerprint
            earlier = [one for one in self._active.values() if one.fingerprint == fingerprint]
            resolved = [old for old in earlier if inspection.settles(old)]
            replaced = [old for old in earlier if inspection.replaces(old)]
            for finding in (*resolved, *replaced):
                self._active.pop(finding.id)
        resolved = [replace(old, location=inspection.location or old.location) for old in resolved]
        return Changes(tuple(detected), tuple(repeated), tuple(resolved))

    def findings(self) -> tuple[Finding, ...]:
        """Return the active findings: most severe first, then those with advice, then by rows."""
        with self._lock:
            active = self._active.values()
        active.sort(key=lambda one: (one.severity.rank, not one.advice, -one.table_rows, one.id))
        return tuple(active)

    def statements(self, matter: Hashable) -> int:
        """Return how many statements have an active finding of this matter."""
        with self._lock:
            active = list(self._active.values())
        return len({one.fingerprint for one in active if one.matter == matter})

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget all findings, without calling them resolved."""
        with self._lock:
            self._active.clear()

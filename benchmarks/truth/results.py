"""The results in a file, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

import flask_planwatch

#: What the results depend on: PlanWatch, and what is measured here.
_SOURCES = (Path(flask_planwatch.__file__).parent, Path(__file__).parent)


class OutOfTime(Exception):
    """There is no time for another statement."""


class Results:
    """Results by server, part and statement, written after each of them."""

    def __init__(self, path: Path, options: dict[str, Any], minutes: float, *, fresh: bool) -> None:
        self._path = path
        self._ends = monotonic() + minutes * 60
        self.options = {**options, "sources": _digest()}
        self.goals: list[dict[str, Any]] = []
        self._data: dict[str, Any] = {}
        if path.exists() and not fresh:
            known = json.loads(path.read_text())
            # Of another PlanWatch, or of other sizes: nothing of it may be mixed with what follows.
            if known.get("options") == self.options:
                self._data = known["servers"]

    def part(self, server: str, name: str) -> dict[str, Any]:
        """Return a part's results, to be added to."""
        part: dict[str, Any] = self._data.setdefault(server, {}).setdefault(name, {})
        return part

    def save(self) -> None:
        """Write all results."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        data = {"options": self.options, "servers": self._data, "goals": self.goals}
        partly = self._path.with_suffix(".partly")
        partly.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        partly.replace(self._path)

    def check_time(self) -> None:
        """Raise OutOfTime if there is none left."""
        if monotonic() > self._ends:
            raise OutOfTime


def _digest() -> str:
    digest = sha256()
    for folder in _SOURCES:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]

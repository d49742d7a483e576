"""What `import flask_planwatch` adds to an app that has Flask, SQLAlchemy and a driver already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from .estimate import Goal

#: What an app may take longer to start, in ms of processor time, and larger, in MB.
MAX_MS = 60.0
MAX_MB = 6.0

_MEASURED = """
import json, logging, resource, time
import flask, flask_sqlalchemy, sqlalchemy.dialects.postgresql.{driver}, {driver}

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

size, spent = resident(), time.process_time()
import flask_planwatch
print(json.dumps([(time.process_time() - spent) * 1000, (resident() - size) / 1e6]))
"""


@dataclass(frozen=True)
class ImportCost:
    """The median of several new processes: ms of processor time, and MB of resident memory."""

    ms: float
    mb: float

    def __str__(self) -> str:
        return f"import flask_planwatch: {self.ms:.0f} ms, {self.mb:.1f} MB"

    def goals(self) -> Iterator[Goal]:
        """Yield what it is compared with."""
        yield Goal("import flask_planwatch", self.ms, MAX_MS, "ms")
        yield Goal("import flask_planwatch", self.mb, MAX_MB, "MB")


def measure(driver: str, processes: int) -> ImportCost:
    """Import it in new processes, after what an app imports anyway; the first one compiles it."""
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", _MEASURED.format(driver=driver)]
    costs = []
    for _ in range(processes + 1):
        done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
        costs.append(json.loads(done.stdout))
    del costs[0]
    return ImportCost(median(ms for ms, _ in costs), median(mb for _, mb in costs))

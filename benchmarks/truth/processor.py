"""How much processor time a connection takes of the server, its parallel workers included."""

from __future__ import annotations

import os
from pathlib import Path

#: Of /proc/PID/stat, after the name of the process: its parent, and the user and system time of
#: its children that have ended.
_PARENT, _CHILDREN_USER, _CHILDREN_SYSTEM = 1, 13, 14


class Unmeasurable(Exception):
    """The processor time of the server cannot be read; the message says why."""


class ProcessorTime:
    """The clock of one backend, in seconds.

    Its own time comes from the scheduler, in ns. Parallel workers are processes of the server that
    end with the statement, before the backend answers: their time is then in the server's account
    of ended children, in units of 10 ms on most machines. So is that of other connections that end,
    and of autovacuum's workers: nothing else may use the server.
    """

    def __init__(self, backend: int, processes: Path = Path("/proc")) -> None:
        self._own = processes / str(backend)
        try:
            name = (self._own / "comm").read_text().strip()
            if not name.startswith("postgres"):
                raise Unmeasurable(f"Process {backend} of this machine is {name}, not PostgreSQL.")
            self._server = processes / _fields(self._own)[_PARENT]
            self.seconds()
        except OSError as error:
            raise Unmeasurable(
                "Processor time is read from /proc: this needs Linux, and a server on the same "
                f"machine ({error})."
            ) from error

    def seconds(self, *, workers: bool = True) -> float:
        """Return the time so far, that of parallel workers included unless there are none."""
        own = int((self._own / "schedstat").read_text().split()[0]) / 1e9
        if not workers:
            return own
        ended = _fields(self._server)
        steps = int(ended[_CHILDREN_USER]) + int(ended[_CHILDREN_SYSTEM])
        return own + steps / os.sysconf("SC_CLK_TCK")


def _fields(process: Path) -> list[str]:
    # The name stands in parentheses, and may hold any character.
    return (process / "stat").read_text().rpartition(")")[2].split()

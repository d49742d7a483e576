"""Starts processes, and stops them whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Seconds that a process gets to stop by itself.
_PATIENCE = 10

#: Lines of its log that say why a process failed.
_TOLD = 20


class Failed(Exception):
    """It could not be measured; the message says why."""


def unwind_on_signals() -> None:
    """Let each signal that ends this process raise KeyboardInterrupt, so that others are stopped.

    A terminal and tox may both send one: a second must not interrupt the unwinding.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in _STOP_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _STOP_SIGNALS:
        signal.signal(number, interrupt)


@contextmanager
def running(command: Sequence[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command that writes its errors to `log`, and stop it at the end.

    It leads a group of its own, so that Ctrl-C in a terminal reaches only this process.
    """
    process = None
    try:
        with log.open("w") as errors, _signals_held_back():
            process = subprocess.Popen(
                command, stderr=errors, text=True, start_new_session=True, **options
            )
        yield process
    except Failed as error:
        told = "\n".join(log.read_text().splitlines()[-_TOLD:])
        if told:
            error.add_note(f"{log.stem}:\n{told}")
        raise
    finally:
        if process:
            with _signals_held_back():
                _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let a signal wait: nobody would stop a process that was only half started."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in _STOP_SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])

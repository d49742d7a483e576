"""An event loop of PlanWatch's own, for its connections of async drivers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from sqlalchemy.util import greenlet_spawn

_Result = TypeVar("_Result")


class EventLoop:
    """Runs functions of SQLAlchemy's async dialects, from any thread, one after the other.

    It is never the application's loop, and runs only as long as a call lasts.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Call a function that uses an async driver; return or raise what it does."""
        result: _Result = _outside_of_loops(self._run, function, *arguments)
        return result

    def close(self) -> None:
        """Give up the loop; the next call makes another."""
        loop, self._loop = self._loop, None
        if loop is not None:
            _outside_of_loops(_close, loop)

    def abandon(self) -> None:
        """Forget, in a forked child, the loop of the parent process.

        It stays referenced: closing it would change what the parent waits for.
        """
        if self._loop is not None:
            _ABANDONED.append(self._loop)
        self._loop = None

    def _run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(greenlet_spawn(function, *arguments))


def _close(loop: asyncio.AbstractEventLoop) -> None:
    # A connection that was terminated has one or two callbacks left.
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def _outside_of_loops(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call a function on this thread, or on another one if this one is running a loop already.

    A loop must not run inside another.
    """
    if asyncio._get_running_loop() is None:
        return function(*arguments)
    with ThreadPoolExecutor(1, thread_name_prefix="flask-planwatch-loop") as pool:
        return pool.submit(copy_context().run, function, *arguments).result()


_ABANDONED: list[asyncio.AbstractEventLoop] = []


def directly(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call a function; the counterpart of `EventLoop.run` for drivers that are not async."""
    return function(*arguments)

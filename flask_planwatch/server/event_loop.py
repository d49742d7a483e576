"""An event loop of PlanWatch's own, on which the connections of async engines live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from sqlalchemy.util import greenlet_spawn

_Result = TypeVar("_Result")


class EventLoop:
    """Runs what SQLAlchemy has written for greenlets, from any thread, one call after the other.

    It is never the loop of the application: it turns only as long as a call lasts.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return the result of a function that talks to an async driver; raises what it raises."""
        result: _Result = _outside_of_loops(self._run, function, *arguments)
        return result

    def close(self) -> None:
        """Give up the loop; the next call makes another."""
        loop, self._loop = self._loop, None
        if loop is not None:
            _outside_of_loops(_close, loop)

    def abandon(self) -> None:
        """Forget, in a forked child, the loop of the parent process.

        It stays referenced for ever: to close it would change what the parent waits for.
        """
        if self._loop is not None:
            _ABANDONED.append(self._loop)
        self._loop = None

    def _run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(greenlet_spawn(function, *arguments))


def _close(loop: asyncio.AbstractEventLoop) -> None:
    # A connection that was ended calls back once or twice before it is gone.
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def _outside_of_loops(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call a function on this thread, or on another one if this one turns a loop already.

    The application's loop must not wait for another one inside itself.
    """
    if asyncio._get_running_loop() is None:
        return function(*arguments)
    with ThreadPoolExecutor(1, thread_name_prefix="flask-planwatch-loop") as pool:
        return pool.submit(copy_context().run, function, *arguments).result()


_ABANDONED: list[asyncio.AbstractEventLoop] = []


def directly(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Return the result of a function; what `EventLoop.run` is for drivers that are not async."""
    return function(*arguments)

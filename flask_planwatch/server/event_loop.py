"""An event loop of PlanWatch's own, on which the connections of async engines live."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
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
        if asyncio._get_running_loop() is None:
            return self._run(function, *arguments)
        # This thread turns the application's loop, which must not wait for another inside itself.
        results: list[_Result] = []
        errors: list[BaseException] = []

        def elsewhere() -> None:
            try:
                results.append(self._run(function, *arguments))
            except BaseException as error:  # noqa: BLE001 - raised again where it belongs
                errors.append(error)

        thread = threading.Thread(target=elsewhere, name="flask-planwatch-loop", daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        """Give up the loop; the next call makes another."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

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


_ABANDONED: list[asyncio.AbstractEventLoop] = []


def directly(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Return the result of a function; what `EventLoop.run` is for drivers that are not async."""
    return function(*arguments)

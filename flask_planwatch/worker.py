"""One lazy daemon thread, a bounded queue, safe across fork."""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Any, NamedTuple

from .finding import Inspection

#: Captures that may wait. An inspection takes some ms, so a longer queue is news of yesterday.
QUEUE_LIMIT = 100

#: Seconds without work after which the thread ends and its connections are given up. A new
#: connection costs some 3 ms, so holding one for longer buys nothing.
IDLE_SECONDS = 5.0

#: Seconds until the second try of a capture whose advice a lock kept from being proved: by then
#: the request that held the lock has ended.
RETRY_SECONDS = 1.0

#: The longest pause between two tries of a capture that is kept until the server answers, in
#: seconds: the pauses double up to this.
MAX_PAUSE = 30.0

#: Seconds that accepted captures get at interpreter exit.
EXIT_PATIENCE = 0.5


#: The threads of all workers. Not a threading.local: one that was made before gevent replaced the
#: threads by greenlets is common to all of them.
OWN_THREADS: set[int] = set()


def on_own_thread() -> bool:
    """Whether the current thread is PlanWatch's own, in any app: it is not watched."""
    return threading.get_ident() in OWN_THREADS


def threads_run() -> bool:
    """False under a uWSGI without threads: there, they stand still between the requests."""
    return bool(getattr(sys.modules.get("uwsgi"), "has_threads", True))


def _before_fork() -> bool:
    """Whether uWSGI is still loading the app, and will fork without a word to Python.

    A thread of its master might hold the interpreter's lock just then, and hang the child.
    """
    uwsgi: Any = sys.modules.get("uwsgi")
    if not hasattr(uwsgi, "worker_id"):
        return False
    return not (uwsgi.worker_id() or uwsgi.mule_id() or uwsgi.i_am_the_spooler())


#: Inspects one capture: is given its ticket and whether this is the last try, returns whether it
#: is done, and does not raise.
Job = Callable[["Ticket", bool], bool]


class Ticket:
    """One accepted job, and what becomes of it.

    `inspection` may be an interim one until it is `done`. The last try is not before the time
    `until`, and `pause` are the seconds between the latest two tries.
    """

    __slots__ = ("done", "inspection", "job", "pause", "until")

    def __init__(self, job: Job, until: float) -> None:
        self.job: Job | None = job
        self.until = until
        self.pause = 0.0
        self.inspection: Inspection | None = None
        self.done = False


class _Retry(NamedTuple):
    """Another try; those that are due at the same time come by their number."""

    due: float
    number: int
    ticket: Ticket


class Worker:
    """Runs jobs one after the other, on a thread that exists only while there is work.

    `let_go` is called on the thread when it has been idle; `abandon` in a forked child, to forget
    what belongs to the parent. `accepted` and `dropped` count the jobs of this process.
    """

    def __init__(self, *, let_go: Callable[[], None], abandon: Callable[[], None]) -> None:
        self._let_go = let_go
        self._abandon = abandon
        self._reset()
        _WORKERS.add(self)

    def submit(self, job: Job, *, first: bool = False, patience: float = 0.0) -> Ticket | None:
        """Accept a job without waiting; return None, and count it, if too many wait.

        `first` puts it ahead of all others, for which there is room of its own. A job that is not
        done gets one more try, or, for `patience` seconds, as many as it takes.
        """
        if not self._settled:
            self._settle()
        # The lock itself: the way to it through the condition takes longer.
        with self._lock:
            room = QUEUE_LIMIT * 2 if first else QUEUE_LIMIT
            full = len(self._pending) >= room or self._closed
            # Before the job is there: a greenlet would start with it, and the app wait for it.
            if full or (self._thread is None and not self._start()):
                self.dropped += 1
                return None
            ticket = Ticket(job, monotonic() + patience if patience else 0.0)
            self._pending.add(ticket)
            self.accepted += 1
            self._queues.put(ticket, first=first)
        return ticket

    def wait(self, tickets: Iterable[Ticket], timeout: float, *, interim: bool = False) -> bool:
        """Wait until these captures are done; False if `timeout` seconds were not enough.

        `interim`: an inspection that waits for its second try is good enough.
        """
        waiting = list(tickets)

        def settled() -> bool:
            return all(
                ticket.done or (interim and ticket.inspection is not None) for ticket in waiting
            )

        if on_own_thread():
            return settled()
        with self._changed:
            return self._changed.wait_for(settled, timeout)

    def flush(self, timeout: float) -> bool:
        """Wait until every capture that was accepted before is done."""
        with self._changed:
            pending = list(self._pending)
        return self.wait(pending, timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread is not None

    @property
    def waiting(self) -> int:
        """How many captures wait or are being inspected."""
        return len(self._pending)

    def close(self, patience: float) -> None:
        """Give what was accepted `patience` seconds, and accept no more."""
        self.flush(patience)
        with self._changed:
            self._closed = True

    def after_fork(self) -> None:
        """Start afresh in a forked child: threads and locks did not come along."""
        self._reset()
        self._abandon()

    def _reset(self) -> None:
        self._make_locks()
        self._pending: set[Ticket] = set()
        self._thread: threading.Thread | None = None
        self._closed = self._settled = False
        self.accepted = 0
        self.dropped = 0

    def _settle(self) -> None:
        """Make lock and queues again at the first capture of a process.

        With Gunicorn's --preload, gevent replaces what they are made of after the fork.
        """
        with _SETTLING:
            if not self._settled:
                self._make_locks()
                self._settled = True

    def _make_locks(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queues = _Queues()

    def _start(self) -> bool:
        """Start the thread; False if it is too early, or too late in the interpreter's life."""
        if _before_fork():
            return False
        # The thread knows its worker weakly, so that an app that nobody needs can be collected.
        thread = threading.Thread(
            target=_work,
            args=(weakref.ref(self), self._queues),
            name="flask-planwatch",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _process(self, ticket: Ticket, *, last_try: bool) -> bool:
        """Run one job; return whether it is done."""
        done, job = True, ticket.job
        # Whatever a job raises: the thread lives on, and nobody waits for it for ever.
        with suppress(BaseException):
            done = job is None or job(ticket, last_try)
        with self._changed:
            if done:
                # The job has the values of a capture, and a ticket may be kept for long.
                ticket.done, ticket.job = True, None
                self._pending.discard(ticket)
            self._changed.notify_all()
        return done

    def _retire(self) -> bool:
        """End the thread if there is nothing to do; False if something came in meanwhile."""
        with self._changed:
            if not self._queues.empty():
                return False
            self._thread = None
        self._let_go()
        return True

    def _ended(self) -> None:
        """Let the next job start another thread, whatever ended this one."""
        with self._changed:
            if self._thread is threading.current_thread():
                self._thread = None


class _Queues:
    """What waits to be done: the jobs that go first, and all others."""

    def __init__(self) -> None:
        # A SimpleQueue is reentrant: a signal handler or a finaliser may run a statement.
        self._first: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
        self._others: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()

    def put(self, ticket: Ticket, *, first: bool) -> None:
        """Add a job, and wake the thread up."""
        if first:
            self._first.put(ticket)
        # None only wakes the thread up.
        self._others.put(None if first else ticket)

    def get(self, timeout: float) -> Ticket | None:
        """Return the next job; None if there was none for so many seconds, or after a wake-up."""
        ticket = self.get_first()
        if ticket is None:
            with suppress(queue.Empty):
                ticket = self._others.get(timeout=timeout) or self.get_first()
        return ticket

    def get_first(self) -> Ticket | None:
        """Return the next job of those that go first, None if there is none."""
        with suppress(queue.Empty):
            return self._first.get_nowait()
        return None

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._first.empty() and self._others.empty()


def _work(reference: weakref.ref[Worker], queues: _Queues) -> None:
    """The thread: takes jobs until the worker has been idle, or is gone."""
    OWN_THREADS.add(threading.get_ident())
    try:
        _work_on(reference, queues)
    finally:
        OWN_THREADS.discard(threading.get_ident())
        if (worker := reference()) is not None:
            worker._ended()


def _work_on(reference: weakref.ref[Worker], queues: _Queues) -> None:
    retries: list[_Retry] = []
    numbers = count()
    while True:
        wait = retries[0].due - monotonic() if retries else IDLE_SECONDS
        ticket = queues.get(wait) if wait > 0 else queues.get_first()
        last_try = False
        if ticket is None and retries and retries[0].due <= monotonic():
            due, _, ticket = heappop(retries)
            last_try = due >= ticket.until
        worker = reference()
        if worker is None:
            return
        if ticket is None:
            if not retries and worker._retire():
                return
            continue
        if not worker._process(ticket, last_try=last_try):
            # Each pause is twice as long as the one before.
            ticket.pause = min(ticket.pause * 2, MAX_PAUSE) or RETRY_SECONDS
            heappush(retries, _Retry(monotonic() + ticket.pause, next(numbers), ticket))
        del worker, ticket


_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()
_SETTLING = threading.RLock()


def _after_fork() -> None:
    global _SETTLING
    _SETTLING = threading.RLock()
    OWN_THREADS.clear()
    for worker in list(_WORKERS):
        worker.after_fork()


def _at_exit() -> None:
    deadline = monotonic() + EXIT_PATIENCE
    for worker in list(_WORKERS):
        worker.close(max(0.0, deadline - monotonic()))


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

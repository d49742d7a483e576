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


class Ticket:
    """What becomes of one accepted capture. `inspection` may be an interim one until `done`."""

    __slots__ = ("done", "inspection")

    def __init__(self) -> None:
        self.inspection: Inspection | None = None
        self.done = False


#: Inspects one capture: is given its ticket and whether this is the last try, returns whether it
#: is done, and does not raise.
Job = Callable[[Ticket, bool], bool]


class _Task(NamedTuple):
    """One job; `until` is the time of its last try, `pause` the seconds before this one.

    Tasks are ordered by the time that they are due at, and by their number.
    """

    due: float
    number: int
    job: Job
    ticket: Ticket
    until: float
    pause: float = 0.0
    last_try: bool = False

    def again(self) -> _Task:
        """Return the next try, twice as late as the one before; the last is not before its time."""
        pause = min(self.pause * 2, MAX_PAUSE) or RETRY_SECONDS
        due = monotonic() + pause
        return self._replace(due=due, pause=pause, last_try=due >= self.until)


class Worker:
    """Runs jobs one after the other, on a thread that exists only while there is work.

    `let_go` is called on the thread when it has been idle; `abandon` in a forked child, to forget
    what belongs to the parent. `accepted` and `dropped` count the jobs of this process.
    """

    def __init__(self, *, let_go: Callable[[], None], abandon: Callable[[], None]) -> None:
        self._let_go = let_go
        self._abandon = abandon
        self._number = 0
        self._reset()
        _WORKERS.add(self)

    def submit(self, job: Job, *, first: bool = False, patience: float = 0.0) -> Ticket | None:
        """Accept a job without waiting; return None, and count it, if too many wait.

        `first` puts it ahead of all others, for which there is room of its own. A job that is not
        done gets one more try, or, for `patience` seconds, as many as it takes.
        """
        if not self._settled:
            self._settle()
        with self._changed:
            room = QUEUE_LIMIT * 2 if first else QUEUE_LIMIT
            if len(self._pending) >= room or self._closed:
                self.dropped += 1
                return None
            # Before the task is there: a greenlet would start with it, and the app wait for it.
            if not self.alive and not self._start():
                self.dropped += 1
                return None
            ticket = Ticket()
            self._number += 1
            self._pending.add(ticket)
            self.accepted += 1
            task = _Task(0.0, self._number, job, ticket, until=monotonic() + patience)
            self._queues.put(task, first=first)
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
        thread = self._thread
        return thread is not None and thread.is_alive()

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
        self._changed = threading.Condition()
        self._pending: set[Ticket] = set()
        self._queues = _Queues()
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
                self._changed = threading.Condition()
                self._queues = _Queues()
                self._settled = True

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

    def _process(self, task: _Task) -> _Task | None:
        """Run one job; return its task again, due later, if it gets one more try."""
        done = True
        # Whatever a job raises: the thread lives on, and nobody waits for it for ever.
        with suppress(BaseException):
            done = task.job(task.ticket, task.last_try)
        with self._changed:
            if done:
                task.ticket.done = True
                self._pending.discard(task.ticket)
            self._changed.notify_all()
        if done:
            return None
        return task.again()

    def _retire(self) -> bool:
        """End the thread if there is nothing to do; False if something came in meanwhile."""
        with self._changed:
            if not self._queues.empty():
                return False
            self._thread = None
        self._let_go()
        return True


class _Queues:
    """What waits to be done: the tasks that go first, and all others."""

    def __init__(self) -> None:
        # A SimpleQueue is reentrant: a signal handler or a finaliser may run a statement.
        self._first: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._others: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()

    def put(self, task: _Task, *, first: bool) -> None:
        """Add a task, and wake the thread up."""
        if first:
            self._first.put(task)
        # None only wakes the thread up.
        self._others.put(None if first else task)

    def get(self, timeout: float) -> _Task | None:
        """Return the next task; None if there was none for so many seconds, or after a wake-up."""
        task = self.get_first()
        if task is None:
            with suppress(queue.Empty):
                task = self._others.get(timeout=timeout) or self.get_first()
        return task

    def get_first(self) -> _Task | None:
        """Return the next task of those that go first, None if there is none."""
        with suppress(queue.Empty):
            return self._first.get_nowait()
        return None

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._first.empty() and self._others.empty()


def _work(reference: weakref.ref[Worker], queues: _Queues) -> None:
    """The thread: takes tasks until the worker has been idle, or is gone."""
    OWN_THREADS.add(threading.get_ident())
    try:
        _work_on(reference, queues)
    finally:
        OWN_THREADS.discard(threading.get_ident())


def _work_on(reference: weakref.ref[Worker], queues: _Queues) -> None:
    later: list[_Task] = []
    while True:
        wait = later[0].due - monotonic() if later else IDLE_SECONDS
        task = queues.get(wait) if wait > 0 else queues.get_first()
        if task is None and later and later[0].due <= monotonic():
            task = heappop(later)
        worker = reference()
        if worker is None:
            return
        if task is None:
            if not later and worker._retire():
                return
            continue
        again = worker._process(task)
        if again is not None:
            heappush(later, again)
        del worker, task, again


_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()
_SETTLING = threading.Lock()


def _after_fork() -> None:
    global _SETTLING
    _SETTLING = threading.Lock()
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

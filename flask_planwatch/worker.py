"""One lazy daemon thread, a bounded queue, safe across fork."""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Any, NamedTuple

from .finding import Inspection

#: Captures that may wait. An inspection takes some ms, so a longer queue is news of yesterday.
QUEUE_LIMIT = 100

#: Seconds between two looks of the thread at what has come in. To wake it up would take the
#: application's thread longer than all else that it does for a statement, and several captures one
#: after the other take less than each by itself. Nobody waits so shortly for a log line; who waits
#: for an inspection wakes it up.
NAP_SECONDS = 0.5

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

    # Defaults of the class: one that is set for each ticket would cost the application time.
    job: Job | None = None
    inspection: Inspection | None = None
    done = False
    until = 0.0
    pause = 0.0


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

        The thread sees it after its nap, or at once if it starts with it, or if much is waiting.
        `first` puts it ahead of all others, for which there is room of its own. A job that is not
        done gets one more try, or, for `patience` seconds, as many as it takes.
        """
        room = QUEUE_LIMIT * 2 if first else QUEUE_LIMIT
        taken, untouched = len(self._taken), len(self._others) + len(self._first)
        full = self._closed or taken + untouched >= room
        starts = self._thread is None
        # Before the job is there: a greenlet would start with it, and the app wait for it.
        if full or (starts and not self._start()):
            self.dropped += 1
            return None
        ticket = Ticket()
        ticket.job = job
        if patience:
            ticket.until = monotonic() + patience
        self.accepted += 1
        (self._first if first else self._others).append(ticket)
        if starts or untouched == (QUEUE_LIMIT - taken) // 2:
            # It has begun to nap already, or would sleep too long.
            self._alarm.put(None)
        if self._thread is None:
            # It has ended without a look at this one.
            self._start()
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

        if on_own_thread() or settled():
            return settled()
        self._alarm.put(None)
        with self._changed:
            return self._changed.wait_for(settled, timeout)

    def flush(self, timeout: float) -> bool:
        """Wait until every capture that was accepted before is done."""
        if self._started_in != os.getpid():
            # In a child that was forked without Python's hooks, the lock may be held for ever.
            return True
        with self._changed:
            # A deque becomes part of a list at one stroke: no thread can add to it meanwhile.
            accepted = [*self._taken, *self._first, *self._others]
        return self.wait(accepted, timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread is not None

    @property
    def waiting(self) -> int:
        """How many captures wait or are being inspected."""
        return len(self._others) + len(self._first) + len(self._taken)

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
        # Threads add to a deque without a lock; one of these goes first.
        self._first: deque[Ticket] = deque()
        self._others: deque[Ticket] = deque()
        #: What the thread has taken of them and is not done with.
        self._taken: set[Ticket] = set()
        self._thread: threading.Thread | None = None
        #: The process that the latest thread was started in.
        self._started_in = 0
        self._closed = self._settled = False
        self.accepted = 0
        self.dropped = 0

    def _make_locks(self) -> None:
        # A signal handler or a finaliser may run a statement: both are reentrant.
        self._changed = threading.Condition(threading.RLock())
        self._alarm: queue.SimpleQueue[None] = queue.SimpleQueue()

    def _start(self) -> bool:
        """Start the thread if there is none.

        False if it is too early, or too late in the interpreter's life.
        """
        if _before_fork():
            return False
        with _SETTLING:
            if not self._settled:
                # With Gunicorn's --preload, gevent replaces what they are made of after the fork.
                self._make_locks()
                self._settled = True
        with self._changed:
            if self._thread is not None:
                return True
            # The thread knows its worker weakly, so that an app that nobody needs can be collected;
            # but not before what was accepted is done, which keeps the app.
            thread = threading.Thread(
                target=_work,
                args=(weakref.ref(self), self._alarm, self._first, self._others),
                name="flask-planwatch",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread, self._started_in = thread, os.getpid()
            return True

    def _take(self, *, first: bool) -> Ticket | None:
        """Return the next job, or only one that goes `first`; None if there is none."""
        with self._changed:
            waiting = self._first or (None if first else self._others)
            if not waiting:
                return None
            ticket = waiting.popleft()
            self._taken.add(ticket)
            return ticket

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
                self._taken.discard(ticket)
            self._changed.notify_all()
        return done

    def _retire(self) -> bool:
        """End the thread if there is nothing to do; False if something came in meanwhile."""
        with self._changed:
            # First, as another thread adds its job before it looks whether there is a thread.
            thread, self._thread = self._thread, None
            if self._first or self._others:
                self._thread = thread
                return False
        self._let_go()
        return True

    def _ended(self) -> None:
        """Let the next job start another thread, whatever ended this one."""
        with self._changed:
            if self._thread is threading.current_thread():
                self._thread = None


def _work(
    reference: weakref.ref[Worker], alarm: queue.SimpleQueue[None], *_: deque[Ticket]
) -> None:
    """The thread: takes jobs until the worker has been idle, or is gone."""
    OWN_THREADS.add(threading.get_ident())
    try:
        _work_on(reference, alarm)
    finally:
        OWN_THREADS.discard(threading.get_ident())
        if (worker := reference()) is not None:
            worker._ended()


def _work_on(reference: weakref.ref[Worker], alarm: queue.SimpleQueue[None]) -> None:
    retries: list[_Retry] = []
    numbers = count()
    idle_since = monotonic()
    while (worker := reference()) is not None:
        now, last_try = monotonic(), False
        due = bool(retries) and retries[0].due <= now
        ticket = worker._take(first=due)
        if ticket is None and due:
            at, _, ticket = heappop(retries)
            last_try = at >= ticket.until
        if ticket is None:
            if not retries and now >= idle_since + IDLE_SECONDS and worker._retire():
                return
            del worker
            nap = min(NAP_SECONDS, retries[0].due - now) if retries else NAP_SECONDS
            with suppress(queue.Empty):
                alarm.get(timeout=nap)
            continue
        if not worker._process(ticket, last_try=last_try):
            # Each pause is twice as long as the one before.
            ticket.pause = min(ticket.pause * 2, MAX_PAUSE) or RETRY_SECONDS
            heappush(retries, _Retry(monotonic() + ticket.pause, next(numbers), ticket))
        idle_since = monotonic()
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

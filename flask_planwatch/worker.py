"""PlanWatch's thread, which all apps of a process share, and the queue before it."""

from __future__ import annotations

import atexit
import contextvars
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
from typing import Any, NamedTuple

from .finding import Inspection
from .runtime.clock import now
from .runtime.interruption import let_through
from .runtime.weak import members

#: Captures that may wait. An inspection takes some ms: anything further back would be stale.
QUEUE_LIMIT = 100

#: Bytes of statements and parameters that may wait: some of the largest that are inspected.
QUEUE_BYTES = 16_000_000

#: Seconds after which the thread reads the queue again. To wake it up would take the application's
#: thread longer than all else that it does for a statement, and several captures in a row take less
#: than each by itself. A log line may come that late; who waits for an inspection wakes the thread.
POLL_SECONDS = 0.5

#: Seconds without work after which a connection is closed, and the thread ends. A new connection
#: costs only some 3 ms.
IDLE_SECONDS = 5.0

#: Seconds until the second try of a capture whose advice a lock kept from being proved: by then
#: the request that held the lock has ended.
RETRY_SECONDS = 1.0

#: The longest pause between two tries of a capture that is kept until the server answers, in
#: seconds: the pauses double up to this.
MAX_PAUSE = 30.0

#: Seconds that accepted captures get at interpreter exit. A developer waits longer for a finding:
#: the first inspection of a process imports what it needs, which takes about half a second of
#: processor time, and PlanWatch's thread may have it to share.
EXIT_PATIENCE, DEVELOPER_PATIENCE = 0.5, 3.0


#: PlanWatch's thread. A set, as one that ends may overlap with the next. Not a threading.local: one
#: that was made before gevent replaced the threads by greenlets is common to all of them.
OWN_THREADS: set[int] = set()


def on_own_thread() -> bool:
    """Whether the current thread is PlanWatch's own: it is not watched."""
    return threading.get_ident() in OWN_THREADS


def threads_run() -> bool:
    """Whether threads run between requests: not under uWSGI without `enable-threads`."""
    return bool(getattr(sys.modules.get("uwsgi"), "has_threads", True))


def _before_fork() -> bool:
    """Whether uWSGI is still loading the app, and will fork without calling Python's fork hooks.

    A thread of its master might hold the interpreter's lock at that moment, and hang the child.
    """
    uwsgi: Any = sys.modules.get("uwsgi")
    if not hasattr(uwsgi, "worker_id"):
        return False
    return not (uwsgi.worker_id() or uwsgi.mule_id() or uwsgi.i_am_the_spooler())


#: Inspects one capture: is given its ticket and whether this is the last try, returns whether it
#: is done, and does not raise.
Job = Callable[["Ticket", bool], bool]


class Ticket:
    """One accepted job of an app, and what becomes of it.

    `inspection` may be an interim one until it is `done`; `detail` is what only a panel shows of
    it. The last try is not before the time `until`, and `pause` are the seconds between the latest
    two tries. `size` is in bytes.
    """

    # Defaults of the class: one that is set for each ticket would cost the application time.
    job: Job | None = None
    worker: Worker | None = None
    inspection: Inspection | None = None
    detail: Any = None
    done = False
    until = 0.0
    pause = 0.0
    size = 0


class _Retry(NamedTuple):
    """Another try of a job; those due at the same time are ordered by their number."""

    due: float
    number: int
    ticket: Ticket


class Worker:
    """Hands the jobs of one app to PlanWatch's thread, and counts them.

    All apps of a process share one thread and one queue, so that a test suite that makes an app for
    each test has no more threads than one app. `close_unused` is called on the thread now and
    then, with a time: it closes what was not used since. `after_fork` is called in a forked child,
    to forget what belongs to the parent. `at_exit` is called as the interpreter ends, with how many
    jobs are not done; before that they get DEVELOPER_PATIENCE if `is_patient` says so, and what
    `hold` returns stays alive meanwhile. `accepted` and `dropped` count the jobs of this process.
    """

    def __init__(
        self,
        *,
        close_unused: Callable[[float], None],
        after_fork: Callable[[], None],
        at_exit: Callable[[int], None] = lambda left: None,
        is_patient: Callable[[], bool] = lambda: False,
        hold: Callable[[], object] = lambda: None,
    ) -> None:
        self.close_unused = close_unused
        self.after_fork = after_fork
        self.at_exit = at_exit
        self.is_patient = is_patient
        self.hold = hold
        self.accepted = 0
        self.dropped = 0
        _WORKERS.add(self)

    def submit(
        self, job: Job, *, size: int = 0, first: bool = False, patience: float = 0.0
    ) -> Ticket | None:
        """Accept a job without waiting; return None, and count it, if too much waits.

        The thread sees it after its nap, or at once if it starts with it, or if much is waiting.
        `size` are the bytes that the job holds. `first` puts it ahead of all others; for these,
        the queue is twice as long. A job that is not done gets one more try, or, for `patience`
        seconds, as many as it takes.
        """
        ticket = Ticket()
        ticket.job, ticket.worker, ticket.size = job, self, size
        if patience:
            ticket.until = now() + patience
        if not _THREAD.submit(ticket, first=first):
            self.dropped += 1
            return None
        self.accepted += 1
        return ticket

    def run(self, job: Job) -> None:
        """Run a job that is not a capture: nobody waits for it, and it is not counted."""
        ticket = Ticket()
        ticket.job = job
        _THREAD.submit(ticket, first=True)

    def wait(self, tickets: Iterable[Ticket], timeout: float, *, interim: bool = False) -> bool:
        """Wait until these captures are done; False if `timeout` seconds were not enough.

        `interim`: an inspection that waits for its second try is good enough.
        """
        return _THREAD.wait(list(tickets), timeout, interim=interim)

    def flush(self, timeout: float) -> bool:
        """Wait until every capture of the app that was accepted before is done."""
        return _THREAD.wait(_THREAD.accepted(self), timeout)

    @property
    def alive(self) -> bool:
        """Whether PlanWatch's thread is running."""
        return _THREAD.alive

    @property
    def waiting(self) -> int:
        """How many captures of the app wait or are being inspected."""
        return len(_THREAD.accepted(self))


class _Thread:
    """PlanWatch's thread, which exists only while there is work, and the queue before it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start afresh: in a forked child, threads and locks did not come along."""
        self._make_locks()
        # Threads add to a deque without a lock; one of these goes first.
        self._first: deque[Ticket] = deque()
        self._others: deque[Ticket] = deque()
        #: What the thread has taken of them and is not done with.
        self._taken: set[Ticket] = set()
        #: About how many bytes wait: two threads may count one on the other.
        self._bytes = 0
        self._thread: threading.Thread | None = None
        #: The process that the latest thread was started in.
        self._started_in = 0
        self._closed = self._settled = False

    @property
    def alive(self) -> bool:
        """Whether it is running."""
        return self._thread is not None

    def submit(self, ticket: Ticket, *, first: bool) -> bool:
        """Accept a job without waiting; False if too many wait, or the thread cannot start."""
        factor = 2 if first else 1
        taken, untouched = len(self._taken), len(self._others) + len(self._first)
        full = self._closed or taken + untouched >= QUEUE_LIMIT * factor
        full |= self._bytes + ticket.size > QUEUE_BYTES * factor
        starts = self._thread is None
        # Before the job is there: a greenlet would start with it, and the app wait for it.
        if full or (starts and not self._start()):
            return False
        self._bytes += ticket.size
        (self._first if first else self._others).append(ticket)
        if starts or untouched == (QUEUE_LIMIT - taken) // 2:
            # It has begun to nap already, or would sleep too long.
            self._alarm.put(None)
        if self._thread is None:
            # It has ended without a look at this one.
            self._start()
        return True

    def wait(self, tickets: list[Ticket], timeout: float, *, interim: bool = False) -> bool:
        """Wait until these are done; see Worker.wait."""

        def settled() -> bool:
            return all(
                ticket.done or (interim and ticket.inspection is not None) for ticket in tickets
            )

        if on_own_thread() or settled():
            return settled()
        self._alarm.put(None)
        deadline = now() + timeout
        with self._changed:
            # Condition.wait_for would ask a clock that may stand still.
            while not settled() and (left := deadline - now()) > 0:
                self._changed.wait(min(left, timeout))
            return settled()

    def accepted(self, worker: Worker | None = None) -> list[Ticket]:
        """Return what was accepted, of one app or of all, and is not done."""
        if self._started_in != os.getpid():
            # In a child that was forked without Python's hooks, the lock may be held for ever.
            return []
        with self._changed:
            # A deque becomes part of a list at one stroke: no thread can add to it meanwhile.
            accepted = [*self._taken, *self._first, *self._others]
        return [ticket for ticket in accepted if worker is None or ticket.worker is worker]

    def close(self) -> None:
        """Accept no more."""
        with self._changed:
            self._closed = True

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
            # In a new context: that of the request that starts it would live as long as the thread.
            run = contextvars.Context().run
            thread = threading.Thread(
                target=run, args=(self._work,), name="flask-planwatch", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                let_through(error)
                return False
            self._thread, self._started_in = thread, os.getpid()
            return True

    def _work(self) -> None:
        """Take jobs until there were none for a while."""
        OWN_THREADS.add(threading.get_ident())
        try:
            if self._is_the_one():
                self._work_on()
        finally:
            OWN_THREADS.discard(threading.get_ident())
            with self._changed:
                # Let the next job start another thread, whatever ended this one.
                if self._thread is threading.current_thread():
                    self._thread = None

    def _is_the_one(self) -> bool:
        """Whether this is the thread: who started it may be interrupted, and start another."""
        with self._changed:
            if self._thread is None:
                self._thread, self._started_in = threading.current_thread(), os.getpid()
            return self._thread is threading.current_thread()

    def _work_on(self) -> None:
        retries: list[_Retry] = []
        numbers = count()
        idle_since = now()
        while True:
            moment, last_try = now(), False
            idle_since = min(idle_since, moment)
            due = bool(retries) and retries[0].due <= moment
            ticket = self._take(first=due)
            if ticket is None and due:
                at, _, ticket = heappop(retries)
                last_try = at >= ticket.until
            if ticket is None:
                if not retries and moment >= idle_since + IDLE_SECONDS and self._retire():
                    return
                if not retries and not self._others:
                    self._bytes = 0
                _close_unused(moment - IDLE_SECONDS)
                wait = min(POLL_SECONDS, retries[0].due - moment) if retries else POLL_SECONDS
                with suppress(queue.Empty):
                    self._alarm.get(timeout=max(0.0, wait))
                continue
            if not self._process(ticket, last_try=last_try):
                # Each pause is twice as long as the one before.
                ticket.pause = min(ticket.pause * 2, MAX_PAUSE) or RETRY_SECONDS
                heappush(retries, _Retry(now() + ticket.pause, next(numbers), ticket))
            idle_since = now()
            del ticket

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
                self._bytes -= ticket.size
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
            self._bytes = 0
        _close_unused(float("inf"))
        return True


def _close_unused(since: float) -> None:
    """Close, in all apps, what was not used since then."""
    for worker in members(_WORKERS):
        with suppress(Exception):
            worker.close_unused(since)


#: The workers of all apps that are alive.
_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()
_SETTLING = threading.RLock()
_THREAD = _Thread()


def _after_fork() -> None:
    global _SETTLING
    _SETTLING = threading.RLock()
    OWN_THREADS.clear()
    _THREAD.reset()
    for worker in members(_WORKERS):
        worker.accepted = worker.dropped = 0
        worker.after_fork()


def _at_exit() -> None:
    accepted = _THREAD.accepted()
    held = [worker.hold() for worker in members(_WORKERS)] if accepted else []
    # Who interrupts the end does not want to wait.
    with suppress(KeyboardInterrupt):
        _THREAD.wait(accepted, EXIT_PATIENCE)
        developed = [one for one in accepted if one.worker is not None and one.worker.is_patient()]
        _THREAD.wait(developed, DEVELOPER_PATIENCE - EXIT_PATIENCE)
    _THREAD.close()
    del held
    for worker in members(_WORKERS):
        # Much of the application may be gone by now.
        with suppress(Exception):
            worker.at_exit(worker.waiting)


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

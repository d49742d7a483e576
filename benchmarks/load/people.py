"""Those who log in: Locust, in a process of its own, as it replaces Python's sockets and threads.

It reads an order from each line of its input, and answers with a line. It ends with its input.
"""

from __future__ import annotations

# Before anything that makes a socket.
from locust import FastHttpUser, task  # isort: skip
from locust.env import Environment  # isort: skip

import json
import random
import sys
from dataclasses import asdict
from time import perf_counter
from typing import Any

import gevent

from example_app.stories.login import DEMO_PASSWORD

from .orders import HOST, NO_ANSWER, PATIENCE, Answers, Order, address


class Person(FastHttpUser):
    """Logs in without a pause, as somebody else each time."""

    connection_timeout = network_timeout = PATIENCE

    @task
    def log_in(self) -> None:
        """Send the form, without the session of the login before."""
        self.client.cookiejar.clear()
        number = random.randint(1, self.environment.users)
        self.client.post("/login", json={"email": address(number), "password": DEMO_PASSWORD})


def carry_out(environment: Any, order: Order) -> Answers:
    """Let people log in; those who wait when the time is over still get their answers."""
    ends: list[float] = []
    statuses: list[int] = []
    latencies: list[float] = []

    def note(response_time: float, response: Any = None, **_: Any) -> None:
        ends.append(perf_counter())
        statuses.append(getattr(response, "status_code", NO_ANSWER))
        latencies.append(response_time)

    environment.host = f"http://{HOST}:{order.port}"
    environment.users = order.users
    environment.events.request.add_listener(note)
    started = perf_counter()
    environment.runner.start(order.people, spawn_rate=order.people)
    gevent.sleep(order.seconds)
    environment.runner.stop()
    environment.events.request.remove_listener(note)
    return Answers(max(ends, default=perf_counter()) - started, statuses, latencies)


def main() -> None:
    """Carry out one order after the other."""
    environment = Environment(user_classes=[Person], stop_timeout=2 * PATIENCE)
    environment.create_local_runner()
    for line in sys.stdin:
        answers = carry_out(environment, Order(**json.loads(line)))
        print(json.dumps(asdict(answers)), flush=True)


if __name__ == "__main__":
    main()

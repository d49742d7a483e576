"""What is said to the people who log in, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

#: Nobody else is ever put under load.
HOST = "127.0.0.1"

#: Seconds after which somebody who waits for an answer goes away.
PATIENCE = 30

#: What stands for the status of a request that got no answer.
NO_ANSWER = 0


@dataclass(frozen=True)
class Order:
    """`people` log in at a port of HOST for some seconds, each of them again and again.

    They do it as the first `users` users.
    """

    port: int
    seconds: float
    people: int
    users: int


@dataclass(frozen=True)
class Answers:
    """The status and the ms of each request; `seconds` is from the first one to the last answer."""

    seconds: float
    statuses: list[int]
    latencies_ms: list[float]


def address(number: int) -> str:
    """Return how a user writes the address: the one in the table begins with a small letter."""
    return f"User{number:06}@example.com"

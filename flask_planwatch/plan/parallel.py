"""How the processes of a parallel plan share its rows.

Below a Gather, the leader and its workers run the same steps. A step that is parallel-aware hands
each of them a part of its rows, and what is above it works on that part: these steps are *shared*.
For them, EXPLAIN prints the rows of one worker. Any other step is run as a whole by each process
that needs it, such as the inner side of a nested loop, or a hash table that is not a Parallel Hash.

One thing is not printed: a small table below a Parallel Hash may be planned with fewer workers than
the Gather has. Its rows are then said to be too many, with two workers by 41% at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .figures import SUB_QUERIES
from .text import nodes_below, number, text_of

#: Steps that collect the rows of all processes.
GATHERS = frozenset({"Gather", "Gather Merge"})

#: Steps that return the rows of several inputs, such as the partitions of a table. In a parallel
#: plan, each input is read by as many workers as its size deserves.
APPENDS = frozenset({"Append", "Merge Append"})

#: What the leader contributes, as it is busy with the rows of each worker:
#: get_parallel_divisor() in src/backend/optimizer/path/costsize.c.
_LEADER_SHARE, _LOST_FOR_EACH_WORKER = 1.0, 0.3

#: The most that PostgreSQL's max_parallel_workers_per_gather can be.
_MOST_WORKERS = 1024.0

_LEADER_PARTICIPATES = "parallel_leader_participation"


@dataclass(frozen=True)
class Share:
    """What is known of a step: the planner divided its rows by `divisor`, at least 1.

    `shared`: the processes share its rows. `processes` are as many as run the plan below the
    nearest Gather, the leader included; 1 where there is none.
    """

    divisor: float = 1.0
    processes: float = 1.0
    shared: bool = False


#: The share of a step that no processes share.
ALONE = Share()


def leader_participates(document: Mapping[str, Any]) -> bool:
    """Whether the leader runs the plan as well, by the settings that EXPLAIN printed."""
    settings = document.get("Settings")
    known = settings.get(_LEADER_PARTICIPATES) if isinstance(settings, Mapping) else None
    return known != "off"


def shares(nodes: Sequence[Mapping[str, Any]], *, leader: bool) -> Mapping[int, Share]:
    """Return the share of each node in a plan's JSON by its id(); `nodes` has parents first."""
    if not any(text_of(node, "Node Type") in GATHERS for node in nodes):
        return dict.fromkeys(map(id, nodes), ALONE)
    shared = _shared(nodes)
    found: dict[int, Share] = {}
    for node in nodes:
        own = found.setdefault(id(node), ALONE)
        if text_of(node, "Node Type") in GATHERS:
            below = _below(node, leader=leader)
            found |= {id(child): below for child in nodes_below(node) if id(child) in shared}
            continue
        for child in nodes_below(node):
            if not own.shared or id(child) not in shared:
                found[id(child)] = replace(own, divisor=1.0, shared=False)
            elif text_of(node, "Node Type") in APPENDS:
                found[id(child)] = replace(own, divisor=_divisor_of_parts(node, own, shared))
            else:
                found[id(child)] = own
    return found


def _shared(nodes: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the steps that are parallel-aware, or work on what such a step hands to them."""
    shared: set[int] = set()
    for node in reversed(nodes):
        if text_of(node, "Node Type") in GATHERS:
            continue
        inputs = (
            child
            for child in nodes_below(node)
            if text_of(child, "Parent Relationship") not in SUB_QUERIES
        )
        if node.get("Parallel Aware") is True or any(id(child) in shared for child in inputs):
            shared.add(id(node))
    return shared


def _below(gather: Mapping[str, Any], *, leader: bool) -> Share:
    workers = min(max(number(gather, "Workers Planned"), 1.0), _MOST_WORKERS)
    divisor = workers
    if leader:
        divisor += max(_LEADER_SHARE - _LOST_FOR_EACH_WORKER * workers, 0.0)
    return Share(divisor, workers + leader, shared=True)


def _divisor_of_parts(append: Mapping[str, Any], own: Share, shared: set[int]) -> float:
    """Return by what the rows of the parts of an Append were divided, on average.

    A small partition is planned with fewer workers than the Gather has, and EXPLAIN does not print
    how many. But the rows of the Append are those of all its parts, as the Gather's workers share
    them. A part that is not shared is read by one process, as a whole.
    """
    parts = nodes_below(append)
    whole = sum(number(part, "Plan Rows") for part in parts if id(part) not in shared)
    divided = sum(number(part, "Plan Rows") for part in parts if id(part) in shared)
    if divided <= 0:
        return own.divisor
    of_shared = number(append, "Plan Rows") * own.divisor - whole
    return min(max(of_shared / divided, 1.0), own.divisor)

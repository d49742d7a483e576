"""What is remembered has place in a bound of so many bytes, whoever remembers it."""

from __future__ import annotations

import gc
import os
import sys
import threading
from dataclasses import dataclass

import pytest

from flask_planwatch.runtime.bounded import ENTRY_SIZE, MemoryBound, RecentlyUsed, size_of


@dataclass(frozen=True)
class Pair:
    one: object
    other: object


def test_the_size_of_a_value_is_that_of_all_in_it():
    text = "x" * 10_000
    alone = size_of(Pair(1, 2), 10**6)
    assert size_of(Pair(text, [text]), 10**6) > alone + 10_000
    # Once for the object, however often it is referred to.
    assert size_of(Pair(text, [text] * 100), 10**6) < alone + 12_000
    assert size_of(Pair("\U0001f600" * 10_000, None), 10**6) > alone + 40_000


def test_the_size_is_looked_for_no_further_than_asked():
    many = [str(number) for number in range(100_000)]
    assert 1000 < size_of(many, 1000) < sys.getsizeof(many) + 10_000


def test_classes_modules_and_functions_are_no_part_of_a_value():
    assert (
        size_of(Pair(Pair, (sys, test_classes_modules_and_functions_are_no_part_of_a_value)), 10**7)
        < 1000
    )


def test_what_was_used_longest_ago_goes_first():
    latest = RecentlyUsed(MemoryBound(3 * (100 + ENTRY_SIZE)))
    for key in "abc":
        latest.keep(key, key.upper(), 100)
    assert latest.get("a") == "A"
    latest.keep("d", "D", 100)
    assert latest.values() == ["C", "A", "D"]
    assert latest.get("b", "none") == "none"
    assert latest.taken == 3 * (100 + ENTRY_SIZE)


def test_what_is_replaced_does_not_count():
    bound = MemoryBound(10_000)
    latest = RecentlyUsed(bound)
    for number in range(1000):
        latest.keep("a", number, 1000)
    assert (latest.items(), bound.taken) == ([("a", 999)], 1000 + ENTRY_SIZE)
    latest.pop("a")
    latest.pop("a")
    assert bound.taken == 0


def test_what_does_not_fit_is_not_kept_and_replaces_nothing_else():
    latest = RecentlyUsed(MemoryBound(1000))
    latest.keep("a", 1, 100)
    latest.keep("b", 2, 1001)
    assert latest.values() == [1]
    latest.keep("a", "too large", 1001)
    assert latest.values() == []


def test_a_number_of_entries_is_a_bound_as_well():
    latest = RecentlyUsed(MemoryBound(10**6), 2)
    for key in "abc":
        latest.keep(key, key)
    assert latest.values() == ["b", "c"]


def test_several_share_a_bound_and_the_largest_forgets():
    bound = MemoryBound(10 * (100 + ENTRY_SIZE))
    small, large = RecentlyUsed(bound), RecentlyUsed(bound)
    small.keep("kept", 1, 100)
    for number in range(1000):
        large.keep(number, number, 100)
        assert bound.taken <= bound.size
    assert (len(small), len(large)) == (1, 9)


def test_a_mapping_that_is_gone_is_not_counted():
    bound = MemoryBound(10 * (100 + ENTRY_SIZE))
    gone, latest = RecentlyUsed(bound), RecentlyUsed(bound)
    for number in range(9):
        gone.keep(number, number, 100)
    del gone
    gc.collect()
    for number in range(10):
        latest.keep(number, number, 100)
    assert len(latest) == 10


def test_several_threads_stay_within_the_bound():
    bound = MemoryBound(100 * (100 + ENTRY_SIZE))
    mappings = [RecentlyUsed(bound) for _ in range(4)]

    def keep(latest):
        for number in range(3000):
            latest.keep(number, number, 100)
            latest.get(number - 5)

    threads = [threading.Thread(target=keep, args=(one,)) for one in mappings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bound.taken == sum(one.taken for one in mappings) <= bound.size
    assert sum(map(len, mappings)) == 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_does_not_wait_for_a_lock_of_its_parent():
    bound = MemoryBound(1000)
    latest = RecentlyUsed(bound)
    held, done = threading.Event(), threading.Event()

    def hold():
        with bound.lock:
            held.set()
            done.wait(240)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(240)
    child = os.fork()
    if not child:
        latest.keep("a", 1, 10)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert status == 0

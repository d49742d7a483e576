"""The remedies that are more than an index for what a plan tests row by row: one file each.

A remedy takes the case and a hit, asks the server what it says, and returns its advice, or Declined
if the planner shows that nothing would be gained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..advice.verdict import Advised, Answer
from ..plan.evidence import Hit, Remedy
from . import combined_index, covering_index, join, ordered_index, prepared, statistics, vacuum
from .case import Case


def _nothing(case: Case, hit: Hit) -> Answer:
    """Leave what to do to other findings, or to a person who looks."""
    return Advised(())


#: What is done about a hit, by what it asks for. Indexes for single predicates are not here: all
#: that one statement needs are chosen together, in advising.py.
REMEDIES: Mapping[Remedy, Callable[[Case, Hit], Answer]] = {
    Remedy.NONE: _nothing,
    Remedy.PREPARED: prepared.advise,
    Remedy.JOIN: join.advise,
    Remedy.STATISTICS: statistics.advise,
    Remedy.VACUUM: vacuum.advise,
    Remedy.COMBINED_INDEX: combined_index.advise,
    Remedy.COVERING_INDEX: covering_index.advise,
    Remedy.ORDERED_INDEX: ordered_index.advise,
}

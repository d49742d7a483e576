"""What to do about a hit: one file for each fix, with its trial and its proof.

A fix is a function that takes the case and a hit, asks the server, and returns advice with a
verdict, or Declined if the planner shows that nothing would be gained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..indexes.verdict import Advised, Answer
from ..plan.evidence import Hit
from . import (
    combined_index,
    counted_order,
    covering_index,
    generic_plan,
    join,
    join_condition,
    ordered_index,
    statistics,
    vacuum,
)
from .case import Case


def _nothing(case: Case, hit: Hit) -> Answer:
    """Advise nothing: other findings say what to do, or a person has to look."""
    return Advised(())


#: The fixes of a predicate. index_set.py chooses the indexes of a statement together.
OF_INDEX_SET = frozenset({"containment", "index", "own-type"})

#: All other fixes, by the name that a rule gives them.
FIXES: Mapping[str, Callable[[Case, Hit], Answer]] = {
    "combined-index": combined_index.advise,
    "counted-order": counted_order.advise,
    "covering-index": covering_index.advise,
    "generic-plan": generic_plan.advise,
    "join": join.advise,
    "join-condition": join_condition.advise,
    "none": _nothing,
    "ordered-index": ordered_index.advise,
    "statistics": statistics.advise,
    "vacuum": vacuum.advise,
}

#: The fixes that save what the planner's costs say.
EXPLAINED_BY_COST = OF_INDEX_SET | {"counted-order"}

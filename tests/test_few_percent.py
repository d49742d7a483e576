"""An index that the planner uses is not advised if it saves a few percent of the cost."""

from __future__ import annotations

import pytest

from flask_planwatch.finding import Advice, AdviceKind, Verdict, VerdictStatus
from flask_planwatch.fixes.trial import if_worth_it
from flask_planwatch.indexes.verdict import Advised, Declined

#: The costs before and after, and whether the index is advised.
COSTS = {
    "three percent": (1000.0, 970.0, False),
    "nine percent": (1000.0, 910.0, False),
    "nearly a fifth": (1000.0, 801.0, False),
    "a fifth": (1000.0, 799.0, True),
    "dearer": (1000.0, 1100.0, False),
    "not known": (None, None, True),
}


@pytest.mark.parametrize("name", COSTS)
def test_an_index_has_to_save_a_fifth(name):
    before, after, advised = COSTS[name]
    verdict = Verdict(VerdictStatus.VERIFIED, "used", before, after, method="hypopg")
    answer = Advised((Advice(AdviceKind.CREATE_INDEX, "CREATE INDEX ON t (a)", verdict),))
    given = if_worth_it(answer)
    if advised:
        assert given is answer
    else:
        assert isinstance(given, Declined)
        assert given.rejected.verdict.status is VerdictStatus.REJECTED
        assert "less than 20%" in given.reason


def test_what_is_declined_stays_so():
    declined = Declined("it was not used")
    assert if_worth_it(declined) is declined

"""Says what an index costs: its size, and the work of keeping it up to date."""

from __future__ import annotations

from ..plan.wording import Template, say
from .candidate import Candidate

_COST = "The index [takes about {size:size} and ]has to be kept up to date. {writes}."
_UNWRITTEN = Template("No row of the table has been written since its statistics were reset")
_WRITTEN = Template(
    "Since its statistics were reset, the table has had {inserted:rows} inserted, "
    "{updated:number} updated and {deleted:number} deleted, and {scans:scans}"
)


def cost_of(candidate: Candidate, size: int | None) -> str:
    """Return what the index costs, in a sentence for people. `size` is in bytes."""
    activity = candidate.relation.activity
    return say(
        _COST,
        size=size,
        writes=_WRITTEN if activity.written else _UNWRITTEN,
        inserted=activity.inserted,
        updated=activity.updated,
        deleted=activity.deleted,
        scans=activity.scans,
    )

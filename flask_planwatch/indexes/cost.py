"""What an index costs: its size, and the work of keeping it up to date."""

from __future__ import annotations

from ..plan.wording import Template, say
from .candidate import Candidate

_COST = "Price: [the index takes about {size:size}; ]{writes}."
_UNWRITTEN = Template("no row of the table was written since its statistics were reset")
_WRITTEN = Template(
    "each write keeps it up to date: {inserted:number} rows inserted, {updated:number} updated and "
    "{deleted:number} deleted so far, against {scans:scans} of the table"
)

#: Bytes of an index entry beside its keys: the line pointer and header of a btree tuple.
#: https://www.postgresql.org/docs/current/storage-page-layout.html
ENTRY_BYTES = 12

#: Pages of a btree are filled to this share when it is built.
#: https://www.postgresql.org/docs/current/sql-createindex.html#INDEX-RELOPTION-FILLFACTOR
FILL = 0.9

#: The width of a value of which nothing is known, in bytes.
USUAL_WIDTH = 16.0


def estimated_size(candidate: Candidate, rows: float) -> int:
    """Return the bytes that a btree index on `rows` rows takes, from the widths of its columns."""
    columns = [key.column for key in candidate.keys] + list(candidate.include)
    widths = [_width(candidate, name) for name in columns]
    return int(rows * (ENTRY_BYTES + sum(widths)) / FILL)


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


def _width(candidate: Candidate, name: str | None) -> float:
    column = candidate.relation.column(name) if name else None
    return (column.width if column else 0.0) or USUAL_WIDTH

"""What an index costs: its size, and the work of keeping it up to date."""

from __future__ import annotations

from .index import Candidate

#: What an index entry takes beside its keys: the line pointer and header of a btree tuple.
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


def price(candidate: Candidate, size: int | None) -> str:
    """Return what the index costs, in a sentence for people. `size` is in bytes."""
    activity = candidate.relation.activity
    said = [f"the index takes about {_readable(size)}"] if size is not None else []
    if activity.written == 0:
        said.append("no row of the table was written since its statistics were reset")
    else:
        said.append(
            f"each write keeps it up to date: {activity.inserted:,} rows inserted, "
            f"{activity.updated:,} updated and {activity.deleted:,} deleted so far, against "
            f"{activity.scans:,} {'scan' if activity.scans == 1 else 'scans'} of the table"
        )
    return f"Price: {'; '.join(said)}."


def _width(candidate: Candidate, name: str | None) -> float:
    column = candidate.relation.column(name) if name else None
    return (column.width if column else 0.0) or USUAL_WIDTH


def _readable(size: int) -> str:
    if size < 1_000_000:
        return f"{max(size, 8192) / 1000:.0f} kB"
    return f"{size / 1_000_000:,.1f} MB"

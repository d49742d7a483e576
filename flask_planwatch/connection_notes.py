"""What the hooks remember of each of the application's connections.

It lives as long as the driver's connection, and not in SQLAlchemy's `info`: that is the
application's, which may clear it, or write all of it to a log.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

_notes: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def notes_of(pooled: Any) -> dict[Any, Any]:
    """Return what is remembered of a connection: a dictionary, for whoever has a key to it.

    `pooled` is the connection as the pool hands it out, or the pool's record of it.
    """
    driver = pooled.driver_connection
    try:
        return _notes[driver]
    except KeyError:
        return _notes.setdefault(driver, {})
    except TypeError:
        # A wrapper of another maker may not be referred to weakly.
        info: dict[Any, Any] = pooled.info
        return info

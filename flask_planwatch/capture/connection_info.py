"""PlanWatch's own information about each of the application's connections.

It is not kept in SQLAlchemy's `info`: that is the application's, which may clear it or log it.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

_info: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def info_of(pooled: Any) -> dict[Any, Any]:
    """Return the information about a connection: a dictionary that lives as long as it does.

    `pooled` is the connection as the pool hands it out, or the pool's record of it.
    """
    driver = pooled.driver_connection
    try:
        return _info[driver]
    except KeyError:
        return _info.setdefault(driver, {})
    except TypeError:
        # A wrapper around the driver's connection may allow no weak references.
        info: dict[Any, Any] = pooled.info
        return info

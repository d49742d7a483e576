"""What an application put in the place of SQLAlchemy's own: parts of a pool or a dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Engine

#: Methods of a pool by which each connection goes to the application and comes back.
_OF_A_POOL = ("connect", "_do_get", "_do_return_conn", "_return_conn", "_create_connection")

#: Methods of a dialect that have the driver's connection or a cursor in their hands, beside those
#: that begin with `do_`.
_OF_A_DIALECT = ("set_isolation_level", "reset_isolation_level", "_do_ping_w_event")


def replaced_method(engine: Engine) -> str | None:
    """Return the name of a method that may set something on a connection where no hook sees it.

    It is one of a pool or a dialect of the application's own making; None if there is none.
    """
    pool, dialect = engine.pool, engine.dialect
    of_a_dialect = [name for name in dir(dialect) if name.startswith("do_")]
    for part, names in ((pool, _OF_A_POOL), (dialect, [*of_a_dialect, *_OF_A_DIALECT])):
        for name in names:
            if _is_replaced(part, name):
                return f"{type(part).__name__}.{name}"
    context: Any = dialect.execution_ctx_cls
    return None if _is_sqlalchemys(context) else context.__name__


def _is_replaced(part: Any, name: str) -> bool:
    if name in vars(part):
        return True
    owner = next((one for one in type(part).__mro__ if name in vars(one)), None)
    if owner is None:
        return False
    return not (_is_sqlalchemys(owner) and _is_sqlalchemys(getattr(owner, name)))


def _is_sqlalchemys(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "sqlalchemy"

"""What an event listener of the application may do with the connection that it is given."""

from __future__ import annotations

from typing import Any


def uses_connection(listener: Any) -> bool:
    """Whether a listener ever looks at its connection."""
    import dis

    code = getattr(getattr(listener, "__func__", listener), "__code__", None)
    if code is None:
        return True
    count = code.co_argcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    names = code.co_varnames[:count]
    names = names[1:] if hasattr(listener, "__func__") else names
    return any(
        str(one.argval) in names or (isinstance(one.argval, tuple) and set(one.argval) & set(names))
        for one in dis.get_instructions(code)
        if one.opname.startswith(("LOAD_FAST", "LOAD_CLOSURE", "LOAD_DEREF"))
    )

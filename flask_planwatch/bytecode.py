"""What is read of functions of the application's without calling them."""

from __future__ import annotations

import dis
import types
from contextlib import suppress
from typing import Any


def closure_of(function: types.FunctionType) -> dict[str, Any]:
    """Return what the variables of outer functions stand for, by their names."""
    known = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            # A name that is not bound yet has no content.
            known[name] = cell.cell_contents
    return known


def asks_attribute(instruction: dis.Instruction) -> bool:
    """Whether an instruction asks for an attribute or a method, or sets one."""
    return "ATTR" in instruction.opname or instruction.opname == "LOAD_METHOD"

"""Running a transaction body to its end without suspending.

On the embedded engine a body is atomic towards every other task because nothing in it suspends.
This is where that rule is enforced, not merely hoped for.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


def drive(body: Awaitable[T]) -> T:
    """Return the result of `body`.  Raises: RuntimeError if it awaits anything that suspends."""
    steps = body.__await__()
    try:
        steps.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    steps.close()
    raise RuntimeError("a transaction body awaited something other than its transaction")

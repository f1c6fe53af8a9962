"""One run of operations on two directories, answer by answer.

Owns the comparison of answers and the timeline.  Refuses to know what the second directory is.
"""

from __future__ import annotations

import time

from tests.model.directory import Directory
from tests.model.operations import Operation
from tests.model.snapshot import (
    Timeline,
    assert_same_order,
    assert_same_tree,
    first_difference,
    times_of,
    tree_of,
)

CLOCK_REALTIME_COARSE = 5
"""The kernel's clock for timestamps; `time` does not name it."""


def await_tick() -> int:
    """Return the file systems' clock once it has passed now: what follows has a later timestamp."""
    now_ns = time.time_ns()
    while (tick_ns := int(time.clock_gettime_ns(CLOCK_REALTIME_COARSE))) <= now_ns:
        time.sleep(0.0005)
    return tick_ns


def brief(answer: object) -> str:
    """Return an answer, short enough to print."""
    if isinstance(answer, bytes) and len(answer) > 40:
        return f"{len(answer)} bytes: {answer[:40]!r}..."
    return repr(answer)


class Run:
    """The same operations here and there."""

    def __init__(self, local: Directory, mount: Directory, *, timed: bool = False) -> None:
        self.local, self.mount = local, mount
        self._timeline = Timeline() if timed else None
        local.begin()
        mount.begin()

    def step(self, number: int, operation: Operation) -> None:
        """Do it on both sides.  Raises: AssertionError when the answers differ."""
        if self._timeline is not None:
            self._timeline.began(await_tick())
        want = self.local.apply(operation)
        found = self.mount.apply(operation)
        if want == found:
            return
        text = f"step {number}: {operation}: local {brief(want)}, mount {brief(found)}"
        if isinstance(want, bytes) and isinstance(found, bytes):
            text += f"; first difference at {first_difference(want, found)}"
        raise AssertionError(text)

    def compare(self) -> None:
        """Compare everything that both sides hold.  Raises: AssertionError."""
        for slot in range(len(self.local.slots)):
            self.step(-1, Operation("fstat", (slot,)))
            self.step(-1, Operation("pread", (slot, 0, 1 << 22)))
        if self._timeline is not None:
            self._timeline.began(await_tick())
            line = self._timeline
            assert_same_order(times_of(self.local.root), times_of(self.mount.root), line, line)
            self._timeline.began(await_tick())
        assert_same_tree(tree_of(self.local.root), tree_of(self.mount.root))

    def pause(self) -> None:
        """Close everything, so that the mount may go."""
        self.local.end()
        self.mount.end()

    def resume(self) -> None:
        """Go on after a remount."""
        self.local.begin()
        self.mount.begin()

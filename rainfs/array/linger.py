"""Waiting a moment for a lone answer without the scheduler.

A turn of the scheduler costs more processor time than a quick node needs to answer.  Owns the
question whether to wait on the thread itself, and for how long.  Refuses to know what is waited
for.

Invariants: at most LINGER_S are spent so at a time, and only while nothing else of the array is
under way; the wait ends as soon as a rival descriptor (the kernel's next request) is readable,
unless that request is expected to wait for the answer itself; where answers take longer it is tried
ever more rarely.
"""

from __future__ import annotations

import select
from collections.abc import Sequence

LINGER_S = 0.003
MAX_SKIPPED = 64
"""So many waits at most are left out after some in a row that came to nothing."""
MAX_POLLS = 256
"""Sets of descriptors whose registration is kept."""

_MS_PER_S = 1_000


class Linger:
    """The moments that one array may wait so."""

    def __init__(self) -> None:
        self.under_way = 0
        """Calls that wait for nodes."""
        self._rivals: list[int] = []
        self._polls: dict[tuple[tuple[int, ...], bool], select.poll] = {}
        self._skip = 0
        self._skipped = 0

    def yield_to(self, fd: int) -> None:
        """Let waits end when `fd` becomes readable; without any rival there are no waits."""
        self._rivals.append(fd)
        self._polls.clear()

    @property
    def worth_it(self) -> bool:
        """Whether the call that was just begun may be waited for."""
        if self.under_way != 1 or not self._rivals:
            return False
        if self._skipped < self._skip:
            self._skipped += 1
            return False
        return True

    def wait(self, fd: int, heeds_rivals: bool = True) -> bool:
        """Wait until `fd` is readable; False when that takes too long or a rival came first."""
        return bool(self.wait_any((fd,), heeds_rivals))

    def wait_any(self, fds: tuple[int, ...], heeds_rivals: bool = True) -> Sequence[int]:
        """Wait until some of `fds` are readable, and name them; none: as for `wait`."""
        poll = self._polls.get((fds, heeds_rivals))
        if poll is None:
            if len(self._polls) >= MAX_POLLS:
                self._polls.clear()
            poll = self._polls[fds, heeds_rivals] = select.poll()
            for each in (*fds, *self._rivals) if heeds_rivals else fds:
                poll.register(each, select.POLLIN)
        ready = poll.poll(LINGER_S * _MS_PER_S)
        if not ready:
            self._skip = min(self._skip * 2 + 1, MAX_SKIPPED)
            self._skipped = 0
            return ()
        self._skip = 0
        return [each for each, _ in ready if each in fds]

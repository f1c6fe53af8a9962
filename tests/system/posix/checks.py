"""Counting checks: each executed check is one that could fail for a reason of its own.

A table's rows are checked to the end even when one of them fails; what failed is told when the test
ends (see `conftest`).  Checks on the mount and on the local reference are counted apart.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable

SHOWN_FAILURES = 40
"""So many failed checks of one test are told in full."""


def number_of(call: Callable[..., object], *arguments: object) -> int:
    """Return the errno of a call, 0 if it succeeded; a file descriptor stays open."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or 0
    return 0


def numbers_of(calls: list[Callable[..., object]], *arguments: object) -> list[int]:
    """Return the errno of each of several calls with the same arguments, made in this order."""
    return [number_of(call, *arguments) for call in calls]


def name_of(number: int) -> str:
    return "success" if number == 0 else errno.errorcode.get(number, str(number))


class Checks:
    """What was checked so far, and what failed since the last `settle`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._failures: list[str] = []

    def note(self, place: str, good: bool, told: str) -> None:
        self.counts[place] += 1
        if not good:
            self._failures.append(f"[{place}] {told}")

    def settle(self) -> str:
        """Return what failed, and forget it."""
        failures, self._failures = self._failures, []
        if not failures:
            return ""
        return "\n".join([f"{len(failures)} checks failed:", *failures[:SHOWN_FAILURES]])


CHECKS = Checks()
"""Those of the whole run."""

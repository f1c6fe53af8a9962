"""Run the cases on several directories in turn, for several rounds, and keep every number.

Owns the order of a run. Refuses to know what is mounted where.

Invariants:
- within a round every group of cases visits each directory before the next group begins, and the
  order of visits turns round with every round, so that whatever else the machine does falls on all;
- a failed case is recorded with its reason and ends only its own group on that directory.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cases import (
    GROUPS,
    Case,
    CaseFailed,
    Group,
    Place,
    Scale,
    drop_caches,
    make_archive,
    note,
)
from bench.results import Measured, Results

NAME_COLUMNS = 18
REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Subject:
    """A file system under test: the name in tables, a directory on it, and how to make it colder.

    `cpu_s` sums the processor time its own processes have used so far (0.0 where nothing is known).
    """

    name: str
    directory: Path
    chill: Callable[[], None] = lambda: None
    cpu_s: Callable[[], float] = lambda: 0.0
    keeps_bytes: bool = True


@dataclass(frozen=True, slots=True)
class Visit:
    """One group of cases on one subject in one round."""

    subject: Subject
    round_number: int
    wanted: frozenset[str]
    results: Results

    def run_group(self, group: Group, archive: Path) -> None:
        try:
            directory = Path(tempfile.mkdtemp(prefix="cases-", dir=self.subject.directory))
        except OSError as failure:
            self._failed(group.cases[0], failure)
            return
        subject = self.subject
        place = Place(directory, archive, self.results.scale, subject.chill, subject.keeps_bytes)
        os.sync()
        try:
            self._run_cases(group, place)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _run_cases(self, group: Group, place: Place) -> None:
        """Run up to the last wanted case; earlier ones prepare files and are not recorded."""
        last = max(
            (i for i, case in enumerate(group.cases) if case.name in self.wanted), default=-1
        )
        for case in group.cases[: last + 1]:
            try:
                measured = self._measure(case, place)
            except (
                CaseFailed,
                OSError,
                subprocess.SubprocessError,
                ValueError,
                KeyError,
            ) as failure:
                self._failed(case, failure)
                return
            if case.name in self.wanted:
                self.results.add(self.subject.name, case.name, self.round_number, measured)

    def _measure(self, case: Case, place: Place) -> Measured:
        if case.cold:
            drop_caches(place)
        cpu_before_s, began = self.subject.cpu_s(), time.monotonic()
        value = case.run(place)
        took_s, cpu_s = time.monotonic() - began, self.subject.cpu_s() - cpu_before_s
        note(
            f"  {self.subject.name:{NAME_COLUMNS}} {case.name:{NAME_COLUMNS}}"
            f"{value:>10.1f} {case.unit:8} took {took_s:6.2f} s, cpu {cpu_s:6.2f} s"
        )
        return Measured(value, cpu_s)

    def _failed(self, case: Case, failure: Exception) -> None:
        self.results.fail(self.subject.name, case.name, str(failure)[:REASON_CHARACTERS])
        note(f"  {self.subject.name:{NAME_COLUMNS}} {case.name:{NAME_COLUMNS}} FAILED: {failure}")


def run_rounds(
    subjects: Sequence[Subject],
    scale: Scale,
    rounds: int,
    wanted: frozenset[str],
    *,
    after_group: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Measure every wanted case on every subject, `rounds` times; `after_group` sees each step."""
    results = Results(scale, [subject.name for subject in subjects])
    with tempfile.TemporaryDirectory(prefix="rainfs-bench-") as scratch:
        archive = Path(scratch) / "sources.tar"
        make_archive(archive)
        for number in range(rounds):
            turn = number % len(subjects)
            for group in GROUPS:
                if not any(case.name in wanted for case in group.cases):
                    continue
                note(f"round {number + 1} of {rounds}: {group.name}")
                for subject in [*subjects[turn:], *subjects[:turn]]:
                    Visit(subject, number, wanted, results).run_group(group, archive)
                after_group(results)
    return results

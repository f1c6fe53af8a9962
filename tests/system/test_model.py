"""The mount against a directory of the local file system: the same random operations on both.

hypothesis draws the operations; the long form explores and shortens what fails, and
`--hypothesis-seed` brings its runs back; the short form always does the same runs.  Some runs are
split by a remount.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.model.directory import Directory
from tests.model.operations import Operation, operations, prologue
from tests.model.run import Run
from tests.system.harness import Cluster, cluster_in

RUNS = {False: 40, True: 700}
TIMED_RUNS = {False: 10, True: 200}
STEPS = 120
TIMED_STEPS = 40
RUNS_PER_REMOUNT = 20
LOG_SHOWN = 4_000
"""Characters of the mount's log that a failure prints."""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two data shards, one parity: three nodes start sooner than six."""
    root = tmp_path_factory.mktemp("model")
    with cluster_in(root, nodes=3, code=("--data", 2, "--parity", 1)) as made:
        made.mount()
        yield made


class Sides:
    """Fresh pairs of directories; every so many runs a remount that compares all of them again."""

    def __init__(self, volume: Cluster, local: Path) -> None:
        self.volume, self.local = volume, local
        local.mkdir()
        self._numbers = itertools.count()
        self.finished: list[Run] = []

    def fresh(self, *, timed: bool = False) -> Run:
        name = f"{self.local.name}-{next(self._numbers)}"
        roots = self.local / name, self.volume.mountpoint / name
        for root in roots:
            root.mkdir()
            root.chmod(0o777)
        run = Run(Directory(roots[0]), Directory(roots[1]), timed=timed)
        for step, operation in enumerate(prologue()):
            run.step(step, operation)
        return run

    @contextlib.contextmanager
    def closing(self, run: Run) -> Iterator[None]:
        """Keep the directories of a run that ends well for the next remount."""
        try:
            yield
        except BaseException:
            print(self.volume.mount_log[-LOG_SHOWN:])
            raise
        finally:
            run.pause()
        self.finished.append(run)
        if len(self.finished) >= RUNS_PER_REMOUNT:
            self.remount_and_compare()

    def remount_and_compare(self) -> None:
        """Everything is the same after a remount."""
        self.volume.remount()
        for run in self.finished:
            run.resume()
            run.compare()
            run.pause()
            shutil.rmtree(run.local.root)
            shutil.rmtree(run.mount.root)
        self.finished.clear()


def chosen(long_form: bool, runs: dict[bool, int]) -> settings:
    """The short form is the same each time; the long one explores."""
    return settings(
        max_examples=runs[long_form],
        deadline=None,
        database=None,
        derandomize=not long_form,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink) if long_form else (Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def test_a_mount_answers_like_a_local_directory(
    volume: Cluster, tmp_path: Path, long_form: bool
) -> None:
    os.umask(0o022)
    sides = Sides(volume, tmp_path / "model")
    parts = st.one_of(
        *[st.tuples(operations(STEPS))] * 15, st.tuples(operations(STEPS), operations(STEPS))
    )

    @chosen(long_form, RUNS)
    @given(parts)
    def run_both(parts: tuple[list[Operation], ...]) -> None:
        run = sides.fresh()
        with sides.closing(run):
            for number, part in enumerate(parts):
                if number:
                    run.pause()
                    volume.remount()
                    run.resume()
                for step, operation in enumerate(part):
                    run.step(step, operation)
                run.compare()

    run_both()
    sides.remount_and_compare()


def test_timestamps_have_the_order_that_a_local_directory_gives_them(
    volume: Cluster, tmp_path: Path, long_form: bool
) -> None:
    os.umask(0o022)
    sides = Sides(volume, tmp_path / "times")

    @chosen(long_form, TIMED_RUNS)
    @given(operations(TIMED_STEPS))
    def run_both(steps: list[Operation]) -> None:
        run = sides.fresh(timed=True)
        with sides.closing(run):
            for step, operation in enumerate(steps):
                run.step(step, operation)
            run.compare()

    run_both()
    sides.remount_and_compare()

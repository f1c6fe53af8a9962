"""The vfs without a kernel against a directory of the local file system: all operations.

The same operations as `tests/system/test_model.py`, ten times as many, with remounts, lookups that
are forgotten, nodes that go and come back, and the timestamps' order.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
from pathlib import Path
from random import Random

import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from rainfs.vfs.options import VfsOptions
from tests.model.directory import Directory
from tests.model.operations import Operation, operations, prologue
from tests.model.run import await_tick, brief
from tests.model.snapshot import Timeline, assert_same_order, assert_same_tree, times_of, tree_of
from tests.unit.vfs.kernel import Kernel
from tests.unit.vfs.rig import STRIPE, Disk, assert_sound, mounted

RUNS = {False: 80, True: 7_000}
TIMED_RUNS = {False: 10, True: 400}
STEPS = 120
TIMED_STEPS = 40
OPTIONS = VfsOptions(dirty_bytes=16 * STRIPE, deadline_s=30.0, reserve_bytes=0, flush_age_s=2.0)
FAULT_CHANCE = 0.03
"""How often, before an operation, nodes go, or come back, or a while passes."""


class Both:
    """A local directory, a disk without a mount yet, and what is known of times."""

    def __init__(self, root: Path, seed: int, *, timed: bool) -> None:
        root.mkdir(parents=True)
        root.chmod(0o755)
        self.local = Directory(root)
        self.disk = Disk(interleave=bool(seed % 2), capacity_bytes=1 << 30)
        self.random = Random(seed)
        self.timed = timed
        self.here, self.there = Timeline(), Timeline()

    def _operation_begins(self) -> None:
        if self.timed:
            self.here.began(await_tick())
            self.there.began(self.disk.clock.now + 1)

    async def _trouble(self) -> None:
        nodes = self.disk.fleet.nodes
        if self.random.random() >= FAULT_CHANCE:
            return
        if any(node.dead for node in nodes):
            for node in nodes:
                node.dead = False
            await trio.sleep(10)
        elif self.random.random() < 0.5:
            for node in self.random.sample(nodes, 2):
                node.dead = True
        else:
            await trio.sleep(self.random.choice([0.1, 3.0]))

    def _is_fifo(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            return stat.S_ISFIFO((self.local.root / path).stat().st_mode)
        return False

    async def step(self, kernel: Kernel, number: int, operation: Operation) -> None:
        """Do it on both sides.  Raises: AssertionError when the answers differ."""
        if operation.name == "open" and self._is_fifo(operation.arguments[1]):
            return  # Fifos are the kernel's own.
        await self._trouble()
        self._operation_begins()
        want = self.local.apply(operation)
        found = await kernel.apply(operation)
        text = f"step {number}: {operation}: local {brief(want)}, vfs {brief(found)}"
        assert want == found, text

    async def compare(self, kernel: Kernel) -> None:
        """Compare everything.  Raises: AssertionError."""
        for slot in range(len(kernel.slots)):
            await self.step(kernel, -1, Operation("fstat", (slot,)))
            await self.step(kernel, -1, Operation("pread", (slot, 0, 1 << 22)))
        self._operation_begins()
        local_times = times_of(self.local.root)
        things, times = await kernel.tree()
        if self.timed:
            assert_same_order(local_times, times, self.here, self.there)
            self._operation_begins()
        assert_same_tree(tree_of(self.local.root), things)


async def run_parts(both: Both, parts: tuple[list[Operation], ...]) -> None:
    """Each part on a mount of its own; everything is compared at the end of each."""
    for part_number, part in enumerate((prologue(), *parts)):
        async with mounted(both.disk, OPTIONS) as mount:
            kernel = Kernel(mount.vfs)
            both.local.begin()
            try:
                if part_number:
                    await both.compare(kernel)
                for number, operation in enumerate(part):
                    await both.step(kernel, number, operation)
                await both.compare(kernel)
            finally:
                both.local.end()
            await kernel.end()
            assert not mount.vfs.table.lookups
            for node in both.disk.fleet.nodes:
                node.dead = False
            await trio.sleep(10)
        await assert_sound(both.disk)


def chosen(runs: int, *, long_form: bool) -> settings:
    """The short form is the same each time; the long one explores."""
    return settings(
        max_examples=runs,
        deadline=None,
        database=None,
        derandomize=not long_form,
        print_blob=True,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


_numbers = itertools.count()


def drive(root: Path, parts: tuple[list[Operation], ...], seed: int, *, timed: bool) -> None:
    """One run from its beginning to its end."""
    where = root / str(next(_numbers))
    both = Both(where, seed, timed=timed)
    try:
        trio.run(run_parts, both, parts, clock=MockClock(autojump_threshold=0))
    finally:
        shutil.rmtree(where)


def test_the_vfs_answers_like_a_local_directory(tmp_path: Path, long_form: bool) -> None:
    os.umask(0o022)
    part = operations(STEPS, kernel=False, users=False)

    @chosen(RUNS[long_form], long_form=long_form)
    @given(st.one_of(st.tuples(part), st.tuples(part, part)), st.integers(0, 1 << 30))
    def run_both(parts: tuple[list[Operation], ...], seed: int) -> None:
        drive(tmp_path / "local", parts, seed, timed=False)

    run_both()


def test_timestamps_have_the_order_that_a_local_directory_gives_them(
    tmp_path: Path, long_form: bool
) -> None:
    os.umask(0o022)
    part = operations(TIMED_STEPS, kernel=False, users=False)

    @chosen(TIMED_RUNS[long_form], long_form=long_form)
    @given(st.tuples(part, part), st.integers(0, 1 << 30))
    def run_both(parts: tuple[list[Operation], ...], seed: int) -> None:
        drive(tmp_path / "local", parts, seed, timed=True)

    run_both()

"""Turns at reading requests: one reads on while it can, somebody always does."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import trio
from trio.testing import wait_all_tasks_blocked

from rainfs.mount.adapter import Adapter
from rainfs.mount.reading import Reading
from tests.unit.mount.test_adapter import CTX
from tests.unit.vfs.rig import Disk, mounted

MAX_TASKS = 5
PATIENCE_S = 20.0


class Loop:
    """pyfuse3's loop in miniature: one byte of a pipe is a request."""

    def __init__(self, answer: Callable[[int], Awaitable[None]]) -> None:
        self.reading = Reading()
        self.answer = answer
        self.source, self.sink = os.pipe()
        os.set_blocking(self.source, False)
        self.lock = self.reading.Lock()
        self.active_readers = 0
        self.exited = False
        self.tasks = 0
        self.most_tasks = 0
        self.readers: list[int] = []
        """Which task read each request."""

    async def main(self, min_tasks: int = 1) -> None:
        async with self.reading.open_nursery() as nursery:
            self.tasks += 1
            nursery.start_soon(self._work, nursery, min_tasks, name="first")

    async def _work(self, nursery: object, min_tasks: int) -> None:
        me = id(trio.lowlevel.current_task())
        try:
            while not self.exited:
                if self.active_readers > min_tasks:
                    return
                self.active_readers += 1
                try:
                    async with self.lock:
                        if self.exited:
                            return
                        await self.reading.lowlevel.wait_readable(self.source)
                finally:
                    self.active_readers -= 1
                request = os.read(self.source, 1)
                self.exited = not request
                if not self.active_readers and self.tasks < MAX_TASKS:
                    self.tasks += 1
                    self.most_tasks = max(self.most_tasks, self.tasks)
                    nursery.start_soon(self._work, nursery, min_tasks)  # type: ignore[attr-defined]
                if not request:
                    return
                self.readers.append(me)
                await self.answer(request[0])
        finally:
            self.tasks -= 1

    def ask(self, *requests: int) -> None:
        os.write(self.sink, bytes(requests))


@asynccontextmanager
async def running(loop: Loop) -> AsyncIterator[None]:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.main)
            await wait_all_tasks_blocked()
            yield
            os.close(loop.sink)
        os.close(loop.source)
        assert loop.tasks == 0, "every task has ended"


async def test_one_task_reads_on_while_no_request_waits() -> None:
    answered: list[int] = []

    async def answer(request: int) -> None:
        answered.append(request)

    loop = Loop(answer)
    async with running(loop):
        for number in range(20):
            loop.ask(number, number)
            await wait_all_tasks_blocked()
        assert answered == [number for number in range(20) for _ in range(2)]
        assert len(set(loop.readers)) == 1


async def test_a_request_that_waits_gives_the_reading_away() -> None:
    gates = [trio.Event() for _ in range(MAX_TASKS - 1)]
    answered: list[int] = []

    async def answer(request: int) -> None:
        if request < len(gates):
            loop.reading.hand_over()
            await gates[request].wait()
        answered.append(request)

    loop = Loop(answer)
    async with running(loop):
        for number in range(len(gates)):
            loop.ask(number, 100 + number)
            await wait_all_tasks_blocked()
            assert answered == [100 + n for n in range(number + 1)], "somebody reads meanwhile"
        for gate in gates:
            gate.set()
        await wait_all_tasks_blocked()
        assert sorted(answered) == [0, 1, 2, 3, 100, 101, 102, 103]
        loop.ask(200)
        await wait_all_tasks_blocked()
        assert answered[-1] == 200


async def test_requests_in_a_row_leave_other_tasks_their_turn() -> None:
    turns = 0

    async def answer(request: int) -> None:
        loop.ask(request)

    async def other() -> None:
        nonlocal turns
        for _ in range(50):
            await trio.lowlevel.checkpoint()
            turns += 1
        answers.cancel()

    loop = Loop(answer)
    answers = trio.CancelScope()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            with answers:
                loop.ask(1)
                await loop.main()
    assert turns == 50
    os.close(loop.source)
    os.close(loop.sink)


async def test_random_waits_lose_no_request_and_leave_no_task_behind() -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    answered = 0

    async def answer(request: int) -> None:
        nonlocal answered
        for _ in range(random.choice([0, 0, 0, 1, 3])):
            loop.reading.hand_over()
            await trio.sleep(random.random() / 1_000)
        answered += 1

    loop = Loop(answer)
    asked = 0
    async with running(loop):
        for _ in range(200):
            requests = range(random.randrange(1, 12))
            loop.ask(*requests)
            asked += len(requests)
            await trio.sleep(random.random() / 1_000)
    assert answered == asked
    assert loop.most_tasks > 1


async def test_the_adapter_says_when_a_request_waits_and_only_then() -> None:
    said: list[str] = []
    async with mounted(Disk()) as mount:
        adapter = Adapter(
            mount.vfs, writeback=False, noxattr=False, waits=lambda: said.append("waits")
        )
        await adapter.create(1, b"first", 0o644, os.O_RDWR, CTX)
        said.clear()  # The first inode of a mount waits for a range of numbers.
        info, entry = await adapter.create(1, b"f", 0o644, os.O_RDWR, CTX)
        await adapter.write(info.fh, 0, b"bytes")
        await adapter.getattr(entry.st_ino, CTX)
        assert not said
        await adapter.fsync(info.fh, False)
        assert said == ["waits"]
        await adapter.release(info.fh)

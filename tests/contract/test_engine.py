"""What every metadata engine must do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest
import trio

from rainfs.errors import MetadataError
from rainfs.meta.engine import MAX_TRANSACTION_KEYS, Engine, Reader, Transaction
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.sqlite import SqliteEngine


def grouping(path: Path) -> Engine:
    """An engine that commits as the holder of the session lock does."""
    engine = SqliteEngine(path / "kv.db", create=True)
    engine._grouping.start()
    return engine


MAKERS: dict[str, Callable[[Path], Engine]] = {
    "sqlite": lambda path: SqliteEngine(path / "kv.db", create=True),
    "sqlite-grouping": grouping,
    "memory": lambda path: MemoryEngine(),
    "memory-interleaved": lambda path: MemoryEngine(interleave=True),
    "memory-conflicts": lambda path: MemoryEngine(conflict_probability=0.5, random=Random(7)),
}


@pytest.fixture(params=list(MAKERS))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    made = MAKERS[request.param](tmp_path)
    yield made
    await made.aclose()


async def put(engine: Engine, **pairs: bytes) -> None:
    async def body(transaction: Transaction) -> None:
        for key, value in pairs.items():
            transaction.put(key.encode(), value)

    await engine.run(body)


async def everything(engine: Engine) -> dict[bytes, bytes]:
    async def body(reader: Reader) -> dict[bytes, bytes]:
        return dict(await reader.scan(b"", b"\xff" * 20, limit=1_000_000))

    return await engine.read(body)


async def test_what_was_put_is_read_back(engine: Engine) -> None:
    await put(engine, a=b"1", b=b"")
    assert await everything(engine) == {b"a": b"1", b"b": b""}

    async def body(reader: Reader) -> list[bytes | None]:
        return [await reader.get(b"a"), await reader.get(b"b"), await reader.get(b"c")]

    assert await engine.read(body) == [b"1", b"", None]


async def test_a_body_that_raises_changes_nothing(engine: Engine) -> None:
    await put(engine, a=b"1")

    async def body(transaction: Transaction) -> None:
        transaction.put(b"a", b"2")
        transaction.delete(b"a")
        transaction.put(b"x", b"y")
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        await engine.run(body)
    assert await everything(engine) == {b"a": b"1"}
    await put(engine, b=b"2")
    assert await everything(engine) == {b"a": b"1", b"b": b"2"}


async def test_a_transaction_reads_its_own_writes(engine: Engine) -> None:
    await put(engine, a=b"1", b=b"2", c=b"3")

    async def body(transaction: Transaction) -> list[list[tuple[bytes, bytes]]]:
        transaction.delete(b"a")
        transaction.put(b"b", b"two")
        transaction.put(b"bb", b"new")
        transaction.put(b"d", b"4")
        transaction.delete(b"d")
        assert await transaction.get(b"a") is None
        assert await transaction.get(b"b") == b"two"
        assert await transaction.get(b"d") is None
        return [
            await transaction.scan(b"a", b"z", limit=10),
            await transaction.scan(b"a", b"z", limit=2),
            await transaction.scan(b"a", b"z", limit=2, reverse=True),
            await transaction.scan(b"c", b"c", limit=2),
        ]

    whole, first, last, none = await engine.run(body)
    assert whole == [(b"b", b"two"), (b"bb", b"new"), (b"c", b"3")]
    assert first == whole[:2]
    assert last == whole[:0:-1]
    assert none == []


async def test_scans_with_pending_changes_equal_a_model(engine: Engine) -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    model: dict[bytes, bytes] = {}

    def key() -> bytes:
        return bytes((random.randrange(40),))

    for _ in range(40):
        changes = [
            (key(), None if random.random() < 0.4 else random.randbytes(3))
            for _ in range(random.randrange(8))
        ]
        questions = [
            (*sorted((key(), key())), random.randrange(12), random.random() < 0.5) for _ in range(6)
        ]

        async def body(
            transaction: Transaction,
            changes: list[tuple[bytes, bytes | None]] = changes,
            questions: list[tuple[bytes, bytes, int, bool]] = questions,
        ) -> None:
            view = dict(model)
            for name, value in changes:
                if value is None:
                    transaction.delete(name)
                    view.pop(name, None)
                else:
                    transaction.put(name, value)
                    view[name] = value
                for start, stop, limit, reverse in questions:
                    wanted = sorted(
                        ((k, v) for k, v in view.items() if start <= k < stop), reverse=reverse
                    )[:limit]
                    found = await transaction.scan(start, stop, limit=limit, reverse=reverse)
                    assert found == wanted

        await engine.run(body)
        for name, value in changes:
            if value is None:
                model.pop(name, None)
            else:
                model[name] = value
        assert await everything(engine) == model


async def test_scans_are_half_open_ordered_and_limited(engine: Engine) -> None:
    async def body(transaction: Transaction) -> None:
        for number in range(100):
            transaction.put(number.to_bytes(2, "big"), b"v")

    await engine.run(body)

    async def look(reader: Reader) -> None:
        def names(rows: list[tuple[bytes, bytes]]) -> list[int]:
            return [int.from_bytes(name, "big") for name, _ in rows]

        start, stop = (10).to_bytes(2, "big"), (20).to_bytes(2, "big")
        assert names(await reader.scan(start, stop, limit=1000)) == list(range(10, 20))
        assert names(await reader.scan(start, stop, limit=3)) == [10, 11, 12]
        backwards = await reader.scan(start, stop, limit=3, reverse=True)
        assert names(backwards) == [19, 18, 17]
        assert await reader.scan(start, stop, limit=0) == []

    await engine.read(look)


async def test_concurrent_increments_are_all_counted(engine: Engine) -> None:
    async def body(transaction: Transaction) -> None:
        old = await transaction.get(b"n")
        transaction.put(b"n", str(int(old or b"0") + 1).encode())

    async def work() -> None:
        for _ in range(20):
            await engine.run(body)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(work)
    assert await everything(engine) == {b"n": b"100"}


async def test_a_phantom_is_a_conflict(engine: Engine) -> None:
    """Two transactions that each add a row unless the range holds one: only one adds."""

    async def body(transaction: Transaction, name: bytes) -> None:
        if not await transaction.scan(b"r", b"s", limit=1):
            transaction.put(b"r" + name, b"")

    async with trio.open_nursery() as nursery:
        for name in (b"1", b"2", b"3"):
            nursery.start_soon(engine.run, lambda t, name=name: body(t, name))
    assert len(await everything(engine)) == 1


async def test_a_reader_sees_one_point_in_time(engine: Engine) -> None:
    await put(engine, a=b"0", b=b"0")
    stop = False

    async def write() -> None:
        nonlocal stop
        for number in range(50):
            value = str(number).encode()
            await put(engine, a=value, b=value)
            await trio.lowlevel.checkpoint()
        stop = True

    async def body(reader: Reader) -> tuple[bytes | None, bytes | None]:
        return await reader.get(b"a"), await reader.get(b"b")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while not stop:
            a, b = await engine.read(body)
            assert a == b
            await trio.lowlevel.checkpoint()


async def test_durable_returns_for_many_callers_at_once(engine: Engine) -> None:
    async def work(number: int) -> None:
        await put(engine, **{f"k{number}": b"v"})
        await engine.durable()

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(work, number)
    await engine.durable()


async def test_too_large_a_transaction_is_refused_whole(engine: Engine) -> None:
    async def body(transaction: Transaction) -> None:
        for number in range(MAX_TRANSACTION_KEYS + 1):
            transaction.put(number.to_bytes(4, "big"), b"")

    with pytest.raises(MetadataError, match="too many"):
        await engine.run(body)
    assert await everything(engine) == {}


async def test_the_session_lock_has_one_holder(engine: Engine) -> None:
    assert not engine.session_locked()
    lock = engine.lock_session()
    assert lock is not None
    assert engine.session_locked()
    assert engine.lock_session() is None
    lock.release()
    lock.release()
    assert not engine.session_locked()
    again = engine.lock_session()
    assert again is not None
    again.release()


async def test_a_closed_engine_refuses_work(engine: Engine) -> None:
    await put(engine, a=b"1")
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(MetadataError):
        await put(engine, a=b"2")


def spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


CHILD = """
import sys, trio
from pathlib import Path
from rainfs.meta.sqlite import SqliteEngine

async def main():
    engine = SqliteEngine(Path(sys.argv[1]))
    async def body(transaction):
        old = await transaction.get(b"n")
        transaction.put(b"n", str(int(old or b"0") + 1).encode())
    for number in range(int(sys.argv[2])):
        await engine.run(body)
        if number % 10 == 0:
            await engine.durable()
    await engine.aclose()

trio.run(main)
"""


HOLDER = """
import sys
from pathlib import Path
from rainfs.meta.sqlite import SqliteEngine

lock = SqliteEngine(Path(sys.argv[1])).lock_session()
print(lock is not None, flush=True)
sys.stdin.read()
"""


async def test_several_processes_count_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    engine = SqliteEngine(path, create=True, wake_pages=20)
    rounds = 300
    children = [spawn(CHILD, str(path), str(rounds)) for _ in range(2)]

    async def body(transaction: Transaction) -> None:
        old = await transaction.get(b"n")
        transaction.put(b"n", str(int(old or b"0") + 1).encode())

    for _ in range(rounds):
        await engine.run(body)
        await trio.lowlevel.checkpoint()
    for child in children:
        assert await trio.to_thread.run_sync(child.wait) == 0
    assert await everything(engine) == {b"n": str(3 * rounds).encode()}
    await engine.aclose()


async def test_another_process_holds_the_session_lock_until_it_dies(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "kv.db", create=True)
    holder = spawn(HOLDER, str(tmp_path / "kv.db"))
    assert holder.stdout is not None
    assert await trio.to_thread.run_sync(holder.stdout.readline) == "True\n"
    assert engine.session_locked()
    assert engine.lock_session() is None
    holder.kill()
    await trio.to_thread.run_sync(holder.wait)
    assert not engine.session_locked()
    lock = engine.lock_session()
    assert lock is not None
    lock.release()
    await engine.aclose()

"""The switches of the engine for tests."""

from __future__ import annotations

from random import Random

from rainfs.meta.engine import Reader, Transaction
from rainfs.meta.memory import MemoryEngine


async def put(engine: MemoryEngine, key: bytes, value: bytes) -> None:
    async def body(transaction: Transaction) -> None:
        transaction.put(key, value)

    await engine.run(body)


async def get(engine: MemoryEngine, key: bytes) -> bytes | None:
    async def body(reader: Reader) -> bytes | None:
        return await reader.get(key)

    return await engine.read(body)


async def test_a_power_cut_takes_back_what_was_not_durable() -> None:
    engine = MemoryEngine()
    await put(engine, b"a", b"1")
    await engine.durable()
    await put(engine, b"a", b"2")
    await put(engine, b"b", b"2")
    assert engine.lock_session() is not None
    engine.power_cut()
    assert await get(engine, b"a") == b"1"
    assert await get(engine, b"b") is None
    assert not engine.session_locked()


async def test_invented_conflicts_run_bodies_again() -> None:
    engine = MemoryEngine(conflict_probability=0.5, random=Random(1))
    for number in range(50):
        await put(engine, b"n", b"%d" % number)
    assert engine.attempts > 60
    assert await get(engine, b"n") == b"49"

"""Page buffers are aligned, and a pool reuses them within its bound."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest

from rainfs._native import AVAILABLE, ffi
from rainfs.memory import BufferPool, Recycler, page_buffer
from rainfs.model import KIB, MIB, PAGE_BYTES


@pytest.mark.parametrize("nbytes", [1, 100, PAGE_BYTES, PAGE_BYTES + 1, MIB, 4 * MIB + 1])
def test_a_page_buffer_is_fresh_writable_and_exactly_as_long(nbytes: int) -> None:
    buffer = page_buffer(nbytes)
    assert len(buffer) == buffer.nbytes == nbytes
    assert not buffer.readonly
    assert bytes(buffer) == bytes(nbytes)


@pytest.mark.skipif(not AVAILABLE, reason="addresses are read through the kernel's ffi")
def test_a_page_buffer_starts_on_a_page() -> None:
    for nbytes in (1, PAGE_BYTES, 3 * PAGE_BYTES + 5):
        start = ffi.from_buffer("uint8_t[]", page_buffer(nbytes))
        assert int(ffi.cast("uintptr_t", start)) % PAGE_BYTES == 0


def test_direct_io_accepts_a_page_buffer(tmp_path: Path) -> None:
    path = tmp_path / "file"
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no O_DIRECT here: {error}")
    try:
        buffer = page_buffer(2 * PAGE_BYTES)
        buffer[:4] = b"rain"
        assert os.pwritev(handle, [buffer], 0) == 2 * PAGE_BYTES
    finally:
        os.close(handle)
    assert path.read_bytes()[:4] == b"rain"


def test_an_impossible_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        page_buffer(0)
    with pytest.raises(ValueError, match="pool"):
        BufferPool(0, 1)


def test_a_pool_gives_back_what_it_was_given() -> None:
    pool = BufferPool(PAGE_BYTES, 2)
    first = pool.take()
    first[0] = 7
    pool.give(first)
    assert pool.idle == 1
    assert pool.take() is first
    assert pool.idle == 0


def test_a_pool_never_keeps_more_than_its_bound() -> None:
    for buffer_bytes, max_buffers in ((PAGE_BYTES, 2), (MIB, 3), (100_000, 30), (3 * MIB, 1)):
        pool = BufferPool(buffer_bytes, max_buffers)
        for buffer in [pool.take() for _ in range(40)]:
            assert len(buffer) == buffer_bytes
            assert pool.idle <= max_buffers
            pool.give(buffer)
        assert pool.idle == max_buffers


@pytest.mark.skipif(not AVAILABLE, reason="addresses are read through the kernel's ffi")
@pytest.mark.parametrize("buffer_bytes", [64 * KIB, 100_000, MIB])
def test_buffers_of_a_pool_are_aligned_and_apart(buffer_bytes: int) -> None:
    pool = BufferPool(buffer_bytes, 64)
    taken = [pool.take() for _ in range(70)]
    starts = sorted(
        int(ffi.cast("uintptr_t", ffi.from_buffer("uint8_t[]", each))) for each in taken
    )
    assert all(start % PAGE_BYTES == 0 for start in starts)
    assert all(b - a >= buffer_bytes for a, b in itertools.pairwise(starts))


def test_a_pool_refuses_buffers_of_others() -> None:
    pool = BufferPool(PAGE_BYTES, 2)
    with pytest.raises(ValueError, match="not of this pool"):
        pool.give(page_buffer(2 * PAGE_BYTES))
    with pytest.raises(ValueError, match="not of this pool"):
        pool.give(memoryview(bytes(PAGE_BYTES)))


def test_threads_never_share_a_buffer() -> None:
    pool = BufferPool(PAGE_BYTES, 4)
    clashes: list[int] = []

    def work(mark: int) -> None:
        for _ in range(2000):
            buffer = pool.take()
            buffer[0] = mark
            if buffer[0] != mark:
                clashes.append(mark)
            pool.give(buffer)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
    assert pool.idle <= 4


def test_recycled_memory_comes_back_with_its_last_view() -> None:
    recycler = Recycler(((8192, 2),))
    first = recycler.take(5000)
    assert len(first) == 5000
    first[:] = b"a" * 5000
    part = first[100:200]
    del first
    other = recycler.take(8192)
    other[:] = b"b" * 8192
    assert bytes(part) == b"a" * 100, "a view of it keeps it"
    del part
    again = recycler.take(8192)
    assert bytes(again[:5000]) == b"a" * 5000, "the same memory"
    assert bytes(other) == b"b" * 8192
    del other, again
    held = [recycler.take(1) for _ in range(5)]
    for number, view in enumerate(held):
        view[0] = number
    assert [view[0] for view in held] == list(range(5)), "no two share memory"


def test_a_recycler_gives_fresh_memory_beyond_its_sizes() -> None:
    view = Recycler(((8192, 2),)).take(8193)
    assert len(view) == 8193
    assert not any(view)

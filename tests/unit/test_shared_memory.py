"""Shared memory: what readers were told of stays as it is, and cannot shrink under them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rainfs.errors import InputError
from rainfs.memory import page_buffer
from rainfs.model import MIB, PAGE_BYTES
from rainfs.shared_memory import (
    MAX_AREA_BYTES,
    SharedArea,
    SharedMemory,
    SharedPool,
    map_shared,
)

SLOTS = 4


@pytest.fixture
def area() -> Iterator[SharedArea]:
    made = SharedArea.make(SLOTS * MIB)
    made.divide(MIB)
    yield made
    made.retire()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedMemory]:
    make = SharedArea.make
    monkeypatch.setattr(SharedArea, "make", lambda: make(SLOTS * MIB))
    made = SharedMemory()
    made.begin()
    yield made
    made.close()


def take_all(area: SharedArea) -> list[memoryview]:
    taken = []
    while (slot := area.take()) is not None:
        taken.append(slot)
    return taken


def test_slots_do_not_overlap_and_readers_see_them(area: SharedArea) -> None:
    seen = map_shared(area.fd, len(area))
    slots = take_all(area)
    assert len(slots) == SLOTS
    for number, slot in enumerate(slots):
        assert len(slot) == MIB
        slot[:] = bytes([number + 1]) * MIB
    starts = [area.hold(slot) for slot in slots]
    for number, start in enumerate(starts):
        assert start is not None
        assert start % PAGE_BYTES == 0
        assert seen[start : start + MIB] == bytes([number + 1]) * MIB
    with pytest.raises(TypeError):
        seen[0] = 1


def test_odd_lengths_begin_on_pages() -> None:
    area = SharedArea.make(MIB)
    area.divide(PAGE_BYTES + 1)
    slots = take_all(area)
    assert {len(slot) for slot in slots} == {PAGE_BYTES + 1}
    assert sorted(area.hold(slot) for slot in slots) == list(range(0, MIB, 2 * PAGE_BYTES))
    area.retire()


@pytest.mark.parametrize("given_first", [True, False])
def test_a_slot_is_reused_once_given_and_read_by_all(area: SharedArea, given_first: bool) -> None:
    slot, *_ = take_all(area)
    start = area.hold(slot[:PAGE_BYTES])
    assert start is not None
    assert area.hold(slot) == start
    if given_first:
        area.give(slot)
    area.let_go(start, read=True)
    assert area.take() is None
    area.let_go(start, read=True)
    if not given_first:
        assert area.take() is None
        area.give(slot)
    again = area.take()
    assert again is not None
    assert area.hold(again) == start
    assert area.take() is None


@pytest.mark.parametrize("given_first", [True, False])
def test_what_a_lost_reader_was_told_of_is_never_reused(
    area: SharedArea, given_first: bool
) -> None:
    slot, *_ = take_all(area)
    start = area.hold(slot)
    assert start is not None
    area.hold(slot)
    if given_first:
        area.give(slot)
    area.let_go(start, read=False)
    area.let_go(start, read=True)
    if not given_first:
        area.give(slot)
    assert area.take() is None


def test_memory_of_others_is_no_slot(area: SharedArea) -> None:
    other = SharedArea.make(MIB)
    other.divide(MIB)
    [slot] = take_all(other)
    inside = take_all(area)[0][PAGE_BYTES:]
    for buffer in (slot, inside, page_buffer(MIB), b"bytes", bytearray(MIB)):
        assert area.hold(buffer) is None
    other.retire()


def test_a_pool_goes_on_with_memory_of_its_own(memory: SharedMemory) -> None:
    pool = SharedPool(memory, MIB, SLOTS)
    taken = [pool.take() for _ in range(SLOTS + 2)]
    own = [buffer for buffer in taken if not isinstance(buffer.obj, SharedArea)]
    assert len(own) == 2
    for buffer in taken:
        pool.give(buffer)
    assert pool.idle == 2
    assert isinstance(pool.take().obj, SharedArea)
    assert not isinstance(SharedPool(memory, 2 * MIB, 1).take().obj, SharedArea), "another length"


def test_a_new_area_comes_when_half_of_the_old_one_is_lost(memory: SharedMemory) -> None:
    pool = SharedPool(memory, MIB, SLOTS)
    old = memory.area
    assert old is not None
    buffers = [pool.take() for _ in range(SLOTS)]
    for buffer in buffers[: SLOTS // 2]:
        start = old.hold(buffer)
        assert start is not None
        pool.give(buffer)
        old.let_go(start, read=False)
    fresh = [pool.take() for _ in range(SLOTS)]
    assert memory.area is not old
    assert all(buffer.obj is memory.area for buffer in fresh)
    assert old.fd == -1
    for buffer in buffers[SLOTS // 2 :]:
        pool.give(buffer)
    assert not isinstance(pool.take().obj, SharedArea), "nothing of the old one comes back"


def test_systems_without_such_memory_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "memfd_create", refuse)
    memory = SharedMemory()
    memory.begin()
    assert memory.area is None
    pool = SharedPool(memory, MIB, 1)
    pool.give(pool.take())
    assert pool.idle == 1
    memory.close()


def test_nothing_is_shared_after_the_end(memory: SharedMemory) -> None:
    memory.close()
    memory.close()
    memory.begin()
    assert memory.area is None
    assert memory.take(MIB) is None


def test_only_sealed_memory_of_the_length_named_is_mapped(tmp_path: Path) -> None:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, MIB)
    for seal in (0, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SHRINK):
        if seal == fcntl.F_SEAL_SHRINK:
            fd, unsealed = os.memfd_create("test", os.MFD_ALLOW_SEALING), fd
            os.close(unsealed)
            os.ftruncate(fd, MIB)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
        with pytest.raises(InputError, match="shrink or grow"):
            map_shared(fd, MIB)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    for nbytes in (-1, 0, MIB - PAGE_BYTES, MIB + PAGE_BYTES, MAX_AREA_BYTES + 1):
        with pytest.raises(InputError, match="bytes"):
            map_shared(fd, nbytes)
    assert len(map_shared(fd, MIB)) == MIB
    os.close(fd)
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    with path.open("rb") as file, pytest.raises(InputError, match="without seals"):
        map_shared(file.fileno(), MIB)

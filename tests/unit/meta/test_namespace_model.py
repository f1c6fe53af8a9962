"""Random operations on the namespace give what a plain tree of Python objects gives."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import hypothesis.strategies as st
import trio
from hypothesis import given, settings

from rainfs.errors import (
    Exists,
    InvalidArgument,
    IsDirectory,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    PosixError,
)
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.namespace import RenameFlag
from rainfs.model import ROOT_INODE, InodeNumber
from tests.model.recount import recount
from tests.unit.meta.rig import DIRECTORY, FILE, Rig, open_rig

NAMES = (b"a", b"b", b"c", b"d")


@dataclass
class Thing:
    """An inode of the model."""

    inode: int
    entries: dict[bytes, Thing] | None = None
    parent: Thing | None = None
    names: int = 0
    removed: bool = False

    @property
    def is_directory(self) -> bool:
        return self.entries is not None

    @property
    def nlink(self) -> int:
        if self.entries is None:
            return self.names
        return 0 if self.removed else 2 + sum(t.is_directory for t in self.entries.values())

    def below(self, top: Thing) -> bool:
        thing: Thing | None = self
        while thing is not None:
            if thing is top:
                return True
            thing = thing.parent
        return False


def entries_of(thing: Thing) -> dict[bytes, Thing]:
    if thing.entries is None:
        raise NotDirectory
    return thing.entries


def find(parent: Thing, name: bytes) -> Thing:
    entries = entries_of(parent)
    if name not in entries:
        raise NotFound
    return entries[name]


def add(parent: Thing, name: bytes, thing: Thing) -> None:
    entries = entries_of(parent)
    if parent.removed:
        raise NotFound
    if name in entries:
        raise Exists
    entries[name] = thing
    thing.names += 1
    if thing.is_directory:
        thing.parent = parent


def drop(parent: Thing, name: bytes) -> None:
    thing = entries_of(parent).pop(name)
    thing.names -= 1


def model_link(thing: Thing, parent: Thing, name: bytes) -> None:
    entries_of(parent)
    if parent.removed:
        raise NotFound
    if thing.is_directory:
        raise NotPermitted
    if thing.names == 0:
        raise NotFound
    add(parent, name, thing)


def model_unlink(parent: Thing, name: bytes) -> None:
    if find(parent, name).is_directory:
        raise IsDirectory
    drop(parent, name)


def model_rmdir(parent: Thing, name: bytes) -> None:
    thing = find(parent, name)
    if thing.entries is None:
        raise NotDirectory
    if thing.entries:
        raise NotEmpty
    drop(parent, name)
    thing.removed = True


def model_rename(
    parent: Thing, name: bytes, new_parent: Thing, new_name: bytes, flags: RenameFlag
) -> None:
    entries_of(parent)
    entries_of(new_parent)
    if new_parent.removed:
        raise NotFound
    moved = find(parent, name)
    target = entries_of(new_parent).get(new_name)
    if flags == RenameFlag.EXCHANGE and target is None:
        raise NotFound
    if flags == RenameFlag.NOREPLACE and target is not None:
        raise Exists
    if target is moved:
        return
    if moved.is_directory and new_parent.below(moved):
        raise InvalidArgument
    if flags == RenameFlag.EXCHANGE and target is not None:
        if target.is_directory and parent.below(target):
            raise InvalidArgument
        drop(parent, name)
        drop(new_parent, new_name)
        add(new_parent, new_name, moved)
        add(parent, name, target)
        return
    if target is not None:
        if moved.is_directory:
            model_rmdir(new_parent, new_name)
        else:
            model_unlink(new_parent, new_name)
    drop(parent, name)
    add(new_parent, new_name, moved)


async def outcome(call: Callable[[], object]) -> type[PosixError] | None:
    try:
        result = call()
        if hasattr(result, "__await__"):
            await result  # type: ignore[misc]
    except PosixError as error:
        return type(error)
    return None


class Pair:
    """The namespace and its model, in step."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        root = Thing(ROOT_INODE, {})
        root.names = 1
        self.things = [root]

    async def both(self, real: Callable[[], object], model: Callable[[], object]) -> bool:
        wanted = await outcome(model)
        found = await outcome(real)
        assert found is wanted, (found, wanted)
        return wanted is None

    async def make(self, parent: Thing, name: bytes, *, directory: bool) -> None:
        thing = Thing(0, {} if directory else None)

        async def real() -> None:
            mode = DIRECTORY if directory else FILE
            thing.inode = (await self.rig.make(name, mode, InodeNumber(parent.inode))).inode

        if await self.both(real, lambda: add(parent, name, thing)):
            self.things.append(thing)

    async def apply(self, operation: tuple[str, int, int, int, int, int]) -> None:
        kind, first, second, third, one, two = operation
        things, names = self.things, self.rig.names
        parent, other = things[first % len(things)], things[second % len(things)]
        thing = things[third % len(things)]
        name, new_name = NAMES[one], NAMES[two]
        inode = InodeNumber(parent.inode)
        now_ns = self.rig.tick()
        if kind in ("file", "directory"):
            await self.make(parent, name, directory=kind == "directory")
        elif kind == "link":
            await self.both(
                lambda: names.link(InodeNumber(thing.inode), inode, name, now_ns=now_ns),
                lambda: model_link(thing, parent, name),
            )
        elif kind == "unlink":
            await self.both(
                lambda: names.unlink(inode, name, now_ns=now_ns),
                lambda: model_unlink(parent, name),
            )
        elif kind == "rmdir":
            await self.both(
                lambda: names.rmdir(inode, name, now_ns=now_ns),
                lambda: model_rmdir(parent, name),
            )
        else:
            flags = RenameFlag[kind]
            await self.both(
                lambda: names.rename(
                    inode, name, InodeNumber(other.inode), new_name, flags=flags, now_ns=now_ns
                ),
                lambda: model_rename(parent, name, other, new_name, flags),
            )

    async def compare(self) -> None:
        for thing in self.things:
            inode = InodeNumber(thing.inode)
            attr = await self.rig.names.getattr(inode)
            assert attr.nlink == thing.nlink
            assert stat.S_ISDIR(attr.mode) == thing.is_directory
            if thing.entries is None:
                continue
            if thing.parent is not None and not thing.removed:
                assert attr.parent == thing.parent.inode
            listed = await self.rig.names.readdir(inode, 0, 100)
            assert {e.name: e.attr.inode for e in listed} == {
                name: child.inode for name, child in thing.entries.items()
            }


OPERATIONS = st.tuples(
    st.sampled_from(
        ["file", "directory", "link", "unlink", "rmdir", "NONE", "NONE", "NOREPLACE", "EXCHANGE"]
    ),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, len(NAMES) - 1),
    st.integers(0, len(NAMES) - 1),
)


async def run_and_compare(
    operations: list[tuple[str, int, int, int, int, int]], *, every: int, crowded: bool
) -> None:
    engine = MemoryEngine(conflict_probability=0.02, random=Random(1))
    options = {"hash_name": lambda name: 7} if crowded else {}
    async with open_rig(engine, **options) as rig:
        pair = Pair(rig)
        for index, operation in enumerate(operations):
            await pair.apply(operation)
            if index % every == 0:
                await pair.compare()
        await pair.compare()
        for thing in pair.things:
            await rig.extents.reap(InodeNumber(thing.inode))
        assert (await recount(engine)).sound


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, max_size=40), st.booleans())
def test_short_runs_equal_the_model(
    operations: list[tuple[str, int, int, int, int, int]], crowded: bool
) -> None:
    trio.run(lambda: run_and_compare(operations, every=1, crowded=crowded))


def test_a_long_run_equals_the_model() -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    kinds = ["file", "directory", "link", "unlink", "rmdir", "NONE", "NONE", "EXCHANGE"]
    operations = [
        (
            random.choice(kinds),
            *(random.randrange(40) for _ in range(3)),
            *(random.randrange(len(NAMES)) for _ in range(2)),
        )
        for _ in range(2_000)
    ]
    trio.run(lambda: run_and_compare(operations, every=200, crowded=False))  # type: ignore[arg-type]

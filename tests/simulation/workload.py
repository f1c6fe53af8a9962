"""A random user of a volume who writes down what was promised.

Writes, fsyncs, truncates; makes, links, renames (also over files, and in exchange), removes; sets
modes and extended attributes; fsyncs directories; lets the reaper, garbage collection and the
compactor work; does several of these at once.  Every promise is a mark of `oracle` in the disk's
log, put before the call for what may happen from then on, and after it for what must have.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from random import Random

import trio

from rainfs.meta.renaming import RenameFlag
from rainfs.meta.stripes import scan_stripes
from rainfs.model import KIB, ROOT_INODE
from rainfs.vfs.attributes import Change
from tests.simulation.disk import RecordingDisk
from tests.simulation.oracle import Begun, Changed, Done, Durable, Recovered, Tree, Written
from tests.simulation.whole import ROOT, Lab

MAX_FILE_BYTES = 96 * KIB
MAX_FILES = 12
WRITE_BYTES = (1, 700, 4 * KIB, 4 * KIB, 20 * KIB, 40 * KIB)
EMPTY = Recovered(Tree(frozenset(), frozenset()), {})

PLAIN = RenameFlag(0)
MAX_STRIPES = 1_000
WRITE_SHARE = 0.4
"""Share of the steps after which gathered commits are written, as the clock would have it."""


Step = Callable[[], Awaitable[None]]


async def _no_wait(nbytes: int) -> None:
    await trio.lowlevel.checkpoint()


class Workload:
    """The user.  `run` works on one mount; the next one may go on where it ended."""

    def __init__(
        self, disk: RecordingDisk, random: Random, start: Recovered = EMPTY, *, serial: int = 0
    ) -> None:
        """`start` is what the volume holds; `serial` keeps the names of two users apart."""
        self.disk = disk
        self.random = random
        self.serial = serial
        self.trees = [start.tree]
        self._entries = {(parent, name): inode for parent, name, inode in start.tree.entries}
        self._modes = {inode: mode for inode, mode, _, _ in start.tree.inodes}
        self._targets = {inode: target for inode, _, target, _ in start.tree.inodes}
        self._xattrs = {inode: dict(pairs) for inode, _, _, pairs in start.tree.inodes}
        self._contents = {inode: bytearray(data) for inode, data in start.contents.items()}
        self._versions = dict.fromkeys(self._contents, 0)
        self._committed: dict[int, int] = {}
        self._handles: dict[int, int] = {}
        self._names = 0
        self._seen: set[int] = set()
        self.lab: Lab

    async def run(self, lab: Lab, operations: int) -> None:
        """Do so many things, one after the other or in small groups."""
        self.lab = lab
        self._handles.clear()
        weighted: list[tuple[Step, int]] = [
            (self.write, 24),
            (self.fsync, 9),
            (self.commit, 3),
            (self.truncate, 5),
            (self.create, 10),
            (self.unlink, 3),
            (self.replace, 4),
            (self.move, 3),
            (self.exchange, 1),
            (self.link, 2),
            (self.make_directory, 2),
            (self.remove_directory, 1),
            (self.symlink, 1),
            (self.chmod, 2),
            (self.set_xattr, 3),
            (self.fsync_directory, 4),
            (self.reap, 5),
            (self.compact, 3),
            (self.at_once, 5),
        ]
        steps = [step for step, _ in weighted]
        weights = [weight for _, weight in weighted]
        for number in range(operations):
            [step] = self.random.choices(steps, weights)
            await step()
            await self._look()
            if number % 40 == 39:
                await self.lab.collect_garbage()

    async def _look(self) -> None:
        """Write down what is written, and which stripes there are."""
        if self.random.random() < WRITE_SHARE:
            self.lab.write_commits()
        if not self.lab.gathers:
            rows = await scan_stripes(self.lab.engine, None, MAX_STRIPES)
            fresh = frozenset(row.id for row in rows) - self._seen
            self._seen |= fresh
            self.disk.mark(Written(len(self.trees) - 1, dict(self._committed), fresh))

    # --- Bytes. ---

    def _files(self) -> list[int]:
        return sorted(self._contents)

    async def _handle(self, inode: int) -> int:
        if inode not in self._handles:
            self._handles[inode] = await self.lab.vfs.files.open(inode, truncate=False, write=True)
        return self._handles[inode]

    def _pick(self) -> int | None:
        files = self._files()
        return self.random.choice(files) if files else None

    def _change(self, inode: int) -> None:
        self._versions[inode] = self._versions.get(inode, 0) + 1
        self.disk.mark(Changed(inode, bytes(self._contents[inode])))

    async def write(self) -> None:
        if (inode := self._pick()) is not None:
            await self._write(inode)

    async def _write(self, inode: int) -> None:
        content = self._contents[inode]
        length = self.random.choice(WRITE_BYTES)
        offset = self.random.randrange(MAX_FILE_BYTES - length)
        if self.random.random() < 0.6:
            offset = min(len(content), offset)
        data = self.random.randbytes(length)
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + length] = data
        self._change(inode)
        await self.lab.vfs.files.write(await self._handle(inode), offset, data)

    async def truncate(self) -> None:
        if (inode := self._pick()) is None:
            return
        content = self._contents[inode]
        size = self.random.randrange(MAX_FILE_BYTES)
        if size < len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))
        self._change(inode)
        attributes = self.lab.vfs.attributes
        await attributes.truncate(await attributes.get(inode), size)

    async def commit(self) -> None:
        """Write a file's bytes out without making the commit durable."""
        if (inode := self._pick()) is not None:
            await self._commit(inode)

    async def _commit(self, inode: int) -> None:
        version = self._versions.get(inode, 0)
        await self.lab.vfs.flusher.flush(await self.lab.vfs.attributes.get(inode))
        self._is_committed(inode, version)

    def _is_committed(self, inode: int, version: int) -> None:
        self._committed[inode] = max(version, self._committed.get(inode, 0))

    async def fsync(self) -> None:
        if (inode := self._pick()) is not None:
            await self._fsync(inode)

    async def _fsync(self, inode: int) -> None:
        version = self._versions.get(inode, 0)
        promise = Durable(len(self.trees) - 1, {**self._committed, inode: version})
        await self.lab.vfs.files.fsync(await self._handle(inode))
        self.disk.mark(promise)
        self._is_committed(inode, version)

    async def fsync_directory(self) -> None:
        promise = Durable(len(self.trees) - 1, dict(self._committed))
        await self.lab.vfs.flusher.durable()
        self.disk.mark(promise)

    # --- Names. ---

    def _begin(self, *renamed_over: int) -> None:
        floors = dict(self._committed)
        for inode in renamed_over:
            if inode in self._contents:
                floors[inode] = self._versions.get(inode, 0)
        self.disk.mark(Begun(len(self.trees), floors))

    def _end(self) -> None:
        there = {ROOT_INODE, *self._entries.values()}
        for inode in [*self._modes]:
            if inode not in there:
                for known in (self._modes, self._targets, self._xattrs, self._contents):
                    known.pop(inode, None)
        entries = frozenset((parent, name, ino) for (parent, name), ino in self._entries.items())
        inodes = frozenset(
            (inode, mode, self._targets.get(inode, b""), frozenset(self._xattrs[inode].items()))
            for inode, mode in self._modes.items()
        )
        self.trees.append(Tree(entries, inodes))
        self.disk.mark(Done(len(self.trees) - 1))

    def _fresh_name(self, prefix: bytes) -> bytes:
        self._names += 1
        return b"%s-%d-%d" % (prefix, self.serial, self._names)

    def _directory(self) -> int:
        directories = [inode for inode, mode in self._modes.items() if stat.S_ISDIR(mode)]
        return self.random.choice([ROOT_INODE, *sorted(directories)])

    def _some_entry(self, *, directory: bool = False) -> tuple[int, bytes] | None:
        found = sorted(
            key
            for key, inode in self._entries.items()
            if stat.S_ISDIR(self._modes[inode]) == directory
        )
        return self.random.choice(found) if found else None

    async def _make(self, name: bytes, mode: int, target: bytes = b"") -> int:
        parent = self._directory()
        self._begin()
        made = await self.lab.vfs.names.make(parent, name, mode, ROOT, target=target)
        inode = int(made.inode)
        self.lab.vfs.table.forget(inode, 1)
        self._entries[parent, name] = inode
        self._modes[inode] = made.mode
        self._targets[inode] = target
        self._xattrs[inode] = {}
        if stat.S_ISREG(mode):
            self._contents[inode] = bytearray()
        self._end()
        return inode

    async def create(self) -> None:
        if len(self._contents) >= MAX_FILES:
            await self.unlink()
        inode = await self._make(self._fresh_name(b"file"), stat.S_IFREG | 0o644)
        await self._write(inode)

    async def make_directory(self) -> None:
        await self._make(self._fresh_name(b"directory"), stat.S_IFDIR | 0o755)

    async def symlink(self) -> None:
        name = self._fresh_name(b"link")
        await self._make(name, stat.S_IFLNK | 0o777, b"to " + name)

    async def link(self) -> None:
        if (inode := self._pick()) is None:
            return
        parent, name = self._directory(), self._fresh_name(b"hard")
        self._begin()
        await self.lab.vfs.names.link(inode, parent, name)
        self.lab.vfs.table.forget(inode, 1)
        self._entries[parent, name] = inode
        self._end()

    def _close(self, inode: int) -> None:
        handle = self._handles.pop(inode, None)
        if handle is not None:
            self.lab.vfs.files.release(handle)

    async def unlink(self) -> None:
        if (entry := self._some_entry()) is None:
            return
        inode = self._entries[entry]
        stays_open = self.random.random() < 0.5
        if not stays_open:
            self._close(inode)
        self._begin()
        await self.lab.vfs.names.unlink(*entry)
        del self._entries[entry]
        self._end()
        if inode not in self._modes:
            self._close(inode)

    async def remove_directory(self) -> None:
        full = {parent for parent, _ in self._entries}
        found = sorted(
            key
            for key, inode in self._entries.items()
            if stat.S_ISDIR(self._modes[inode]) and inode not in full
        )
        if found:
            entry = self.random.choice(found)
            self._begin()
            await self.lab.vfs.names.rmdir(*entry)
            del self._entries[entry]
            self._end()

    async def _rename(
        self, old: tuple[int, bytes], new: tuple[int, bytes], flags: RenameFlag = PLAIN
    ) -> None:
        moved, replaced = self._entries[old], self._entries.get(new)
        self._begin(*([moved] if replaced is not None else []))
        await self.lab.vfs.names.rename(*old, *new, flags)
        self._entries[new] = moved
        if flags & RenameFlag.EXCHANGE and replaced is not None:
            self._entries[old] = replaced
        else:
            del self._entries[old]
        self._end()
        if replaced is not None and replaced not in self._modes:
            self._close(replaced)

    async def move(self) -> None:
        directory = self.random.random() < 0.2
        if (entry := self._some_entry(directory=directory)) is not None:
            # A directory only moves up to the root, so never below itself.
            parent = ROOT_INODE if directory else self._directory()
            await self._rename(entry, (parent, self._fresh_name(b"moved")))

    async def replace(self) -> None:
        old, new = self._some_entry(), self._some_entry()
        if old and new and self._entries[old] != self._entries[new]:
            await self._rename(old, new)

    async def exchange(self) -> None:
        old, new = self._some_entry(), self._some_entry()
        if old and new and self._entries[old] != self._entries[new]:
            await self._rename(old, new, RenameFlag.EXCHANGE)

    async def chmod(self) -> None:
        if self._modes:
            inode = self.random.choice(
                [ino for ino in sorted(self._modes) if not stat.S_ISLNK(self._modes[ino])] or [0]
            )
            if inode:
                mode = stat.S_IFMT(self._modes[inode]) | self.random.choice([0o600, 0o640, 0o755])
                self._begin()
                await self.lab.vfs.attributes.set(inode, Change(mode=mode))
                self._modes[inode] = mode
                self._end()

    async def set_xattr(self) -> None:
        if (inode := self._pick()) is None:
            return
        name = self.random.choice([b"user.one", b"user.two"])
        attributes = self.lab.vfs.attributes
        found = await attributes.get(inode)
        self._begin()
        if name in self._xattrs[inode] and self.random.random() < 0.3:
            await attributes.removexattr(found, name)
            del self._xattrs[inode][name]
        else:
            value = self.random.randbytes(self.random.choice([0, 8, 3_000]))
            await attributes.setxattr(found, name, value)
            self._xattrs[inode][name] = value
        self._end()

    # --- Upkeep, and several things at once. ---

    async def reap(self) -> None:
        await self.lab.reaper.round()

    async def compact(self) -> None:
        """Rewrite some of the stripes that have lost bytes, or are small."""
        rows = await scan_stripes(self.lab.engine, None, MAX_STRIPES)
        worn = [row.id for row in rows if row.live_bytes < row.born_bytes or row.born_bytes < KIB]
        chosen = self.random.sample(worn, self.random.randint(0, len(worn)))
        await self.lab.compactor.rewrite(chosen, _no_wait)

    async def at_once(self) -> None:
        """Sync several files while something else goes on."""
        files = self._files()
        chosen = self.random.sample(files, min(len(files), self.random.randint(2, 4)))
        others: list[Step] = self.random.sample(
            [
                self.make_directory,
                self.lab.session.publish,
                self.lab.session.publish,
                self.reap,
                self.collect,
                self.collect,
                self.compact,
                self.compact,
            ],
            3,
        )
        # Where nothing is synced, what goes on beside it must not take commits for durable.
        end = self.random.choice([self._fsync, self._commit, self._commit])

        rounds = self.random.randint(1, 3)

        async def write(inode: int) -> None:
            for _ in range(rounds):
                await self._write(inode)
                await end(inode)

        async with trio.open_nursery() as nursery:
            for inode in chosen:
                nursery.start_soon(write, inode)
            for other in others:
                nursery.start_soon(other)

    async def collect(self) -> None:
        await self.lab.collect_garbage()

"""Flushes whose commit ran ahead: right and wrong guesses, with other commits in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
import trio

from rainfs.array.array import Piece
from rainfs.meta.committing import RehearsedCommit
from rainfs.meta.grouping import UNGROUPED_S
from rainfs.meta.sqlite import SqliteEngine
from rainfs.model import KIB, Layout, Placement, StripeId, StripeView
from tests.model.recount import recount
from tests.unit.vfs.rig import ROOT, Disk, Mount, mounted

FILES = 3
STEPS = 60


def guessing(mount: Mount, random: Random) -> Callable[..., object]:
    """`Array.write` that tells the likely result, now and then a wrong one, and takes its time."""
    write = mount.array.write

    async def written(
        stripe: StripeId,
        pieces: Sequence[Piece],
        layout: Layout,
        *,
        meanwhile: Callable[[StripeView], None],
        heeds_rivals: bool,
    ) -> StripeView:
        view = await write(stripe, pieces, layout)
        guess = view
        if random.random() < 0.2:
            guess = StripeView(view.id, view.stripe, Placement(view.placement.nodes[::-1]))
        meanwhile(guess)
        for _ in range(random.randrange(3)):
            await trio.lowlevel.checkpoint()
        return view

    return written


@pytest.mark.parametrize("seed", range(3))
async def test_files_are_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    disk = Disk()
    engine = SqliteEngine(tmp_path / "kv.db", create=True)
    monkeypatch.setattr(disk, "engine", engine)
    taken: list[bool] = []
    commit = RehearsedCommit.commit

    def counted(self: RehearsedCommit) -> bool:
        taken.append(commit(self))
        return taken[-1]

    monkeypatch.setattr(RehearsedCommit, "commit", counted)
    shadows = [bytearray() for _ in range(FILES)]
    async with mounted(disk) as mount:
        monkeypatch.setattr(mount.array, "write", guessing(mount, random))
        handles = [await mount.create(b"%d" % number) for number in range(FILES)]

        async def work(number: int, random: Random) -> None:
            shadow, handle = shadows[number], handles[number]
            for _ in range(STEPS):
                offset = random.randrange(20 * KIB)
                data = random.randbytes(random.choice([1, 500, 5 * KIB]))
                match random.randrange(8):
                    case 0:
                        await mount.truncate(b"%d" % number, offset)
                        shadow[offset:] = b""
                        shadow.extend(bytes(offset - len(shadow)))
                    case 1:
                        await trio.sleep(2 * UNGROUPED_S)
                    case 2:
                        await mount.vfs.names.make(
                            1, random.randbytes(9).hex().encode(), 0o100600, ROOT
                        )
                    case _:
                        await mount.write(handle, offset, data)
                        shadow.extend(bytes(max(0, offset - len(shadow))))
                        shadow[offset : offset + len(data)] = data
                        if random.random() < 0.7:
                            await mount.vfs.files.fsync(handle)
                        else:
                            await trio.lowlevel.checkpoint()
            assert await mount.read(handle) == bytes(shadow)

        for number in range(FILES):
            await work(number, random)
        assert taken.count(True) > 20, "alone, rehearsals hold"
        taken.clear()
        async with trio.open_nursery() as nursery:
            for number in range(FILES):
                nursery.start_soon(work, number, Random(random.random()))
        for number in range(FILES):
            mount.vfs.files.release(handles[number])
    disk.engine = SqliteEngine(tmp_path / "kv.db")
    async with mounted(disk) as mount:
        for number in range(FILES):
            assert await mount.content(b"%d" % number) == bytes(shadows[number])
        found = await recount(disk.engine)
        assert found.sound, found
    await disk.engine.aclose()
    await engine.aclose()

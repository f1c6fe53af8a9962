"""What was set is what is there after the kernel forgot everything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.system.harness import drop_caches
from tests.system.posix import calls
from tests.system.posix.spot import Spot


def _seen(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = Path(directory) / name
            s = os.lstat(path)
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            kind = stat.S_IFMT(s.st_mode)
            content: object = None
            if kind == stat.S_IFLNK:
                content = os.readlink(path)
            elif kind == stat.S_IFREG:
                content = path.read_bytes()
            found[os.path.relpath(path, top)] = (
                (s.st_ino, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_rdev),
                (s.st_mtime_ns, s.st_ctime_ns, s.st_blocks),
                attributes,
                content,
            )
    return found


def test_nothing_depends_on_the_kernels_memory(mounted: Spot) -> None:
    for number in range(12):
        path = mounted.file(f"file{number}", os.urandom(number * 40_000), 0o600 + number)
        os.chown(path, number, 2 * number)
        os.utime(path, ns=(number, 1 << (50 + number)))
    for number in range(4):
        mounted.directory(f"d{number}", 0o1700 + number)
        os.link(mounted / "file3", mounted / f"d{number}" / "linked")
        os.symlink("t" * (1000 * number + 1), mounted / f"link{number}")
        os.setxattr(mounted / f"d{number}", "user.a", os.urandom(3000 * number))
    os.mkfifo(mounted / "fifo")
    calls.made_device(mounted / "device")
    os.rename(mounted / "d1", mounted / "d2" / "moved")
    os.truncate(mounted / "file7", 100_000)
    os.truncate(mounted / "file2", 200_000)
    before = _seen(mounted.path)
    drop_caches()
    after = _seen(mounted.path)
    mounted.same(sorted(after), sorted(before), "names")
    for name, (attributes, times, extended, content) in before.items():
        again = after[name]
        mounted.same(again[0], attributes, f"attributes of {name}")
        mounted.same(again[1], times, f"times and blocks of {name}")
        mounted.true(again[2] == extended, f"extended attributes of {name}")
        mounted.true(again[3] == content, f"content of {name}")
    calls.created(mounted / "new")
    drop_caches()
    mounted.true((mounted / "new").exists(), "a name made after the caches went")

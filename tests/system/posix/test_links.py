"""Hard links, symbolic links and link counts."""

from __future__ import annotations

import errno
import os
import stat

from tests.system.posix import calls
from tests.system.posix.spot import Spot

MAX_TARGET_BYTES = 4095
MAX_FOLLOWED = 40


def test_every_name_counts(spot: Spot) -> None:
    path = spot.file("file")
    for number in range(10):
        os.link(path, spot / f"link{number}")
        spot.same(os.stat(path).st_nlink, number + 2, "link")
    spot.same(len({entry.inode() for entry in os.scandir(spot.path)}), 1, "one inode")
    os.chmod(spot / "link3", 0o600)
    os.truncate(spot / "link4", 3)
    found = os.stat(spot / "link5")
    spot.same((found.st_mode & 0o777, found.st_size), (0o600, 3), "all names show the change")
    os.rename(spot / "link6", spot / "renamed")
    spot.same(os.stat(path).st_nlink, 11, "rename")
    os.rename(spot / "renamed", spot / "link7")
    spot.same(os.stat(path).st_nlink, 11, "rename between names of one inode")
    os.rename(spot.file("other"), spot / "link0")
    spot.same(os.stat(path).st_nlink, 10, "replaced by a rename")
    for number in range(1, 10):
        if (spot / f"link{number}").exists():
            os.unlink(spot / f"link{number}")
    os.unlink(spot / "renamed")
    spot.same(os.stat(path).st_nlink, 1, "the last")


def test_directories_count_their_subdirectories(spot: Spot) -> None:
    top = spot.directory("top")
    spot.same(os.stat(top).st_nlink, 2, "an empty one")
    for number in range(5):
        (top / f"d{number}").mkdir()
        spot.same(os.stat(top).st_nlink, 3 + number, "mkdir")
        (top / f"f{number}").write_bytes(b"")
    spot.same(os.stat(top).st_nlink, 7, "files do not count")
    os.rename(top / "d0", top / "d1" / "moved")
    spot.same((os.stat(top).st_nlink, os.stat(top / "d1").st_nlink), (6, 3), "rename down")
    os.rename(top / "d1" / "moved", top / "back")
    spot.same((os.stat(top).st_nlink, os.stat(top / "d1").st_nlink), (7, 2), "rename up")
    os.rename(top / "back", top / "d2")
    spot.same(os.stat(top).st_nlink, 6, "rename over an empty one")
    os.rmdir(top / "d2")
    spot.same(os.stat(top).st_nlink, 5, "rmdir")


def test_every_kind_but_directories_can_be_linked(spot: Spot) -> None:
    os.symlink("target", spot / "link")
    os.mkfifo(spot / "fifo")
    calls.made_socket(spot / "socket")
    calls.made_device(spot / "device")
    for name in ("link", "fifo", "socket", "device"):
        os.link(spot / name, spot / f"{name}-twin", follow_symlinks=False)
        one, two = os.lstat(spot / name), os.lstat(spot / f"{name}-twin")
        spot.same((one.st_ino, one.st_mode, 2), (two.st_ino, two.st_mode, two.st_nlink), name)
    directory = spot.directory("directory")
    spot.gives(errno.EPERM, os.link, directory, spot / "twin")
    os.symlink("directory", spot / "to-directory")
    spot.gives(
        errno.EPERM, calls.linkat, spot / "to-directory", spot / "twin", calls.AT_SYMLINK_FOLLOW
    )
    spot.gives(0, calls.linkat, spot / "to-directory", spot / "twin", 0)
    spot.true(stat.S_ISLNK(os.lstat(spot / "twin").st_mode), "the link itself got a name")


def test_link_refusals(spot: Spot) -> None:
    path = spot.file("file")
    spot.gives(errno.EEXIST, os.link, path, path)
    spot.gives(errno.EEXIST, os.link, path, spot.directory("d"))
    spot.gives(errno.ENOENT, os.link, spot / "absent", spot / "new")
    spot.gives(errno.ENOENT, os.link, path, spot / "absent" / "new")
    spot.gives(errno.ENOTDIR, os.link, path, path / "new")
    spot.gives(errno.EXDEV, os.link, path, "/dev/shm/new")
    spot.gives(errno.EINVAL, calls.linkat, path, spot / "new", 0x8000)
    os.symlink("nowhere", spot / "dangling")
    spot.gives(errno.ENOENT, calls.linkat, spot / "dangling", spot / "new", calls.AT_SYMLINK_FOLLOW)
    spot.gives(errno.EEXIST, os.link, path, spot / "dangling")
    os.chmod(spot.path, 0o555)
    os.chown(path, 1000, 1000)
    spot.gives(errno.EACCES, spot.user(1000).run, os.link, path, spot / "new")
    spot.same(os.stat(path).st_nlink, 1, "none was made")


def test_targets_of_all_lengths(spot: Spot) -> None:
    for length in (1, 2, 59, 60, 61, 255, 256, 1023, 1024, 2048, 4094, MAX_TARGET_BYTES):
        target = b"t" * length
        link = os.fsencode(spot / f"link{length}")
        spot.gives(0, os.symlink, target, link)
        spot.same(os.readlink(link), target, length)
        spot.same(os.lstat(link).st_size, length, f"size of {length}")
    spot.gives(errno.ENAMETOOLONG, os.symlink, b"t" * 4096, spot / "long")
    spot.gives(errno.ENOENT, os.symlink, b"", spot / "empty")
    strange = b"\xff\xfe \n/../\x01"
    os.symlink(strange, spot / "strange")
    spot.same(os.readlink(os.fsencode(spot / "strange")), strange, "any bytes")


def test_what_a_link_says_of_itself(spot: Spot) -> None:
    os.symlink("nowhere", spot / "link")
    found = os.lstat(spot / "link")
    spot.same(oct(found.st_mode), oct(stat.S_IFLNK | 0o777))
    spot.same((found.st_nlink, found.st_size), (1, 7))
    os.lchown(spot / "link", 1000, 2000)
    found = os.lstat(spot / "link")
    spot.same((found.st_uid, found.st_gid), (1000, 2000))
    calls.utimensat(spot / "link", (5, 6), (7, 8), calls.AT_SYMLINK_NOFOLLOW)
    found = os.lstat(spot / "link")
    spot.same((found.st_atime_ns, found.st_mtime_ns), (5_000_000_006, 7_000_000_008))
    spot.gives(errno.EOPNOTSUPP, calls.fchmodat2, spot / "link", 0o600, calls.AT_SYMLINK_NOFOLLOW)
    spot.gives(errno.ENOENT, os.chmod, spot / "link", 0o600)
    spot.gives(errno.EINVAL, os.readlink, spot.file("file"))
    spot.gives(errno.EINVAL, os.readlink, spot.path)


def test_links_are_followed_so_far_and_no_farther(spot: Spot) -> None:
    spot.file("0")
    for number in range(1, MAX_FOLLOWED + 2):
        os.symlink(str(number - 1), spot / str(number))
    spot.gives(0, os.stat, spot / str(MAX_FOLLOWED))
    spot.gives(errno.ELOOP, os.stat, spot / str(MAX_FOLLOWED + 1))
    spot.gives(0, os.lstat, spot / str(MAX_FOLLOWED + 1))
    spot.gives(0, os.unlink, spot / "20")
    spot.gives(errno.ENOENT, os.stat, spot / "30")
    spot.gives(0, os.stat, spot / "19")


def test_links_lead_through_directories_and_out_of_the_file_system(spot: Spot) -> None:
    (spot / "a" / "b").mkdir(parents=True)
    (spot / "a" / "file").write_bytes(b"found")
    os.symlink("a/b", spot / "relative")
    os.symlink(os.fspath(spot / "a"), spot / "absolute")
    os.symlink("/proc/self", spot / "outside")
    spot.same((spot / "absolute" / "file").read_bytes(), b"found")
    spot.same((spot / "relative" / ".." / "file").read_bytes(), b"found", "dot dot of the target")
    spot.true((spot / "outside" / "stat").exists(), "out")
    calls.created(spot / "absolute" / "new")
    spot.true((spot / "a" / "new").exists(), "created through a link")
    os.symlink("made", spot / "dangling")
    calls.created(spot / "dangling")
    spot.true((spot / "made").is_file(), "created by a dangling link's target")

"""open(2): every flag on every kind of object, and what an open file may do afterwards."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path

import pytest

from tests.system.posix import calls
from tests.system.posix.spot import Spot

ACCESS = {"O_RDONLY": os.O_RDONLY, "O_WRONLY": os.O_WRONLY, "O_RDWR": os.O_RDWR}
TOGGLES = {
    "O_CREAT": os.O_CREAT,
    "O_EXCL": os.O_EXCL,
    "O_TRUNC": os.O_TRUNC,
    "O_APPEND": os.O_APPEND,
    "O_DIRECTORY": os.O_DIRECTORY,
    "O_NOFOLLOW": os.O_NOFOLLOW,
}
TARGETS = ("file", "directory", "absent", "to-file", "to-directory", "dangling", "fifo", "socket")


def _prepare(top: Path) -> None:
    (top / "file").write_bytes(b"content")
    (top / "directory").mkdir()
    os.symlink("file", top / "to-file")
    os.symlink("directory", top / "to-directory")
    os.symlink("nowhere", top / "dangling")
    os.mkfifo(top / "fifo")
    calls.made_socket(top / "socket")


def _outcome(top: Path, name: str, flags: int) -> tuple[object, ...]:
    """What opening did: errno, then kind and size behind the descriptor, and what is there."""
    number, seen = 0, (0, 0)
    try:
        descriptor = os.open(top / name, flags | os.O_NONBLOCK, 0o640)
    except OSError as error:
        number = error.errno or 0
    else:
        found = os.fstat(descriptor)
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        seen = (found.st_mode, size)
        os.close(descriptor)
    names = sorted(os.listdir(top))
    size = os.stat(top / "file").st_size
    for extra in ("absent", "nowhere"):
        if os.path.lexists(top / extra):
            os.unlink(top / extra)
    if size != 7:
        (top / "file").write_bytes(b"content")
    return errno.errorcode.get(number, "success"), seen, size, names


@pytest.mark.parametrize("target", TARGETS)
def test_all_flags_do_as_on_the_local_file_system(twins: tuple[Spot, Spot], target: str) -> None:
    mounted, local = twins
    for spot in twins:
        _prepare(spot.path)
    for access, count in itertools.product(ACCESS, range(len(TOGGLES) + 1)):
        for chosen in itertools.combinations(TOGGLES, count):
            if "O_EXCL" in chosen and "O_CREAT" not in chosen:
                continue  # undefined
            if access == "O_RDONLY" and "O_TRUNC" in chosen and "O_CREAT" not in chosen:
                continue  # undefined
            flags = ACCESS[access]
            for name in chosen:
                flags |= TOGGLES[name]
            got = _outcome(mounted.path, target, flags)
            want = _outcome(local.path, target, flags)
            mounted.same(got, want, f"{target} with {access} {' '.join(chosen)}")


def test_an_access_mode_binds_the_descriptor(spot: Spot) -> None:
    path = spot.file("file")
    for flags, may_read, may_write in (
        (os.O_RDONLY, True, False),
        (os.O_WRONLY, False, True),
        (os.O_RDWR, True, True),
        (os.O_WRONLY | os.O_APPEND, False, True),
        (os.O_PATH, False, False),
    ):
        descriptor = os.open(path, flags)
        spot.gives(0 if may_read else errno.EBADF, os.read, descriptor, 1)
        spot.gives(0 if may_read else errno.EBADF, os.pread, descriptor, 1, 0)
        spot.gives(0 if may_write else errno.EBADF, os.write, descriptor, b"x")
        spot.gives(0 if may_write else errno.EBADF, os.pwrite, descriptor, b"x", 0)
        truncate = 0 if may_write else errno.EINVAL
        truncate = errno.EBADF if flags & os.O_PATH else truncate
        spot.gives(truncate, os.ftruncate, descriptor, 5)
        spot.gives(errno.EBADF if flags & os.O_PATH else 0, os.fsync, descriptor)
        spot.gives(errno.EBADF if flags & os.O_PATH else 0, os.fchmod, descriptor, 0o644)
        spot.gives(0, os.fstat, descriptor)
        os.close(descriptor)
        spot.gives(errno.EBADF, os.read, descriptor, 1)
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY):
        descriptor = os.open(spot.path, flags)
        spot.gives(errno.EISDIR, os.read, descriptor, 1)
        spot.gives(errno.EBADF, os.write, descriptor, b"x")
        spot.gives(errno.EINVAL, os.ftruncate, descriptor, 0)
        os.close(descriptor)


def test_a_path_descriptor_names_an_object(spot: Spot) -> None:
    path = spot.file("file")
    os.symlink("file", spot / "link")
    descriptor = os.open(spot / "link", os.O_PATH | os.O_NOFOLLOW)
    spot.true(stat.S_ISLNK(os.fstat(descriptor).st_mode), "a link can be held")
    spot.same(os.readlink("", dir_fd=descriptor), "file", "and read")
    os.close(descriptor)
    top = os.open(spot.path, os.O_PATH | os.O_DIRECTORY)
    inner = os.open("file", os.O_RDONLY, dir_fd=top)
    spot.same(os.read(inner, 100), b"content", "opened below a path descriptor")
    spot.same(os.stat("file", dir_fd=top).st_ino, os.stat(path).st_ino)
    os.rename("file", "renamed", src_dir_fd=top, dst_dir_fd=top)
    os.unlink("renamed", dir_fd=top)
    spot.same(os.listdir(spot.path), ["link"], "rename and unlink below it")
    spot.gives(errno.EBADF, os.listdir, top)
    os.close(inner)
    os.close(top)


def test_what_is_created_is_open_whatever_its_mode_says(spot: Spot) -> None:
    user = spot.user(1000)
    os.chmod(spot.path, 0o777)
    descriptor = user.run(os.open, spot / "file", os.O_CREAT | os.O_RDWR, 0o000)
    spot.gives(0, user.run, os.write, descriptor, b"content")
    spot.gives(0, user.run, os.pread, descriptor, 3, 0)
    spot.gives(errno.EACCES, user.run, calls.opened_for_reading, spot / "file")
    user.run(os.close, descriptor)
    spot.same((spot / "file").read_bytes(), b"content")


def test_only_one_of_many_creates_exclusively(spot: Spot) -> None:
    rivals = [spot.process() for _ in range(4)]
    for number in range(10):
        for rival in rivals:
            rival.start(calls.created_exclusively, spot / f"file{number}")
        won = 0
        for rival in rivals:
            try:
                rival.finish()
                won += 1
            except FileExistsError:
                pass
        spot.same(won, 1, f"winners of file {number}")
    for rival in rivals:
        rival.close()


def test_running_programs_are_not_written_and_written_ones_not_run(spot: Spot) -> None:
    program = spot / "program"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    os.chmod(program, 0o755)
    writing = os.open(program, os.O_WRONLY)
    spot.gives(errno.ETXTBSY, calls.executed, program)
    os.close(writing)
    running = os.posix_spawn(program, ["sleep", "60"], {})
    try:
        spot.gives(errno.ETXTBSY, calls.opened_for_writing, program)
        spot.gives(errno.ETXTBSY, calls.opened_truncating, program)
        spot.gives(errno.ETXTBSY, os.truncate, program, 0)
        spot.gives(0, calls.opened_for_reading, program)
        spot.gives(0, os.unlink, program)
    finally:
        os.kill(running, 9)
        os.waitpid(running, 0)


def test_fifos_and_devices_work_through_their_names(spot: Spot) -> None:
    os.mkfifo(spot / "fifo")
    spot.gives(errno.ENXIO, os.open, spot / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    reader = os.open(spot / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(spot / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    spot.same(os.read(reader, 100), b"through")
    os.close(writer)
    spot.same(os.read(reader, 100), b"", "the end")
    spot.gives(errno.ESPIPE, os.lseek, reader, 0, os.SEEK_SET)
    os.close(reader)
    spot.gives(errno.EINVAL, os.truncate, spot / "fifo", 0)
    if spot.mounted:
        os.mknod(spot / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        spot.same((spot / "null").read_bytes(), b"", "the null device")
        (spot / "null").write_bytes(b"gone")
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        for major, minor in ((0, 0), (1, 3), (255, 255), (300, 70000), (4095, 1048575)):
            path = spot / f"{kind}-{major}-{minor}"
            os.mknod(path, kind | 0o600, os.makedev(major, minor))
            found = os.lstat(path)
            spot.same(
                (stat.S_IFMT(found.st_mode), os.major(found.st_rdev), os.minor(found.st_rdev)),
                (kind, major, minor),
            )
    spot.gives(errno.ENXIO, calls.opened_for_reading, _socket(spot))


def _socket(spot: Spot) -> Path:
    path = spot / "socket"
    calls.made_socket(path)
    return path


def test_sockets_listen_below_the_mount(spot: Spot) -> None:
    calls_root = os.getcwd()
    os.chdir(spot.path)
    try:
        calls.bound("s")
        spot.true(stat.S_ISSOCK(os.lstat("s").st_mode), "bind makes a socket")
        spot.gives(errno.EADDRINUSE, calls.bound, "s")
        spot.gives(errno.EADDRINUSE, calls.bound, str(spot.file("f").name))
        spot.gives(errno.ENOENT, calls.bound, "missing/s")
    finally:
        os.chdir(calls_root)

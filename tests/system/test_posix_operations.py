"""Every operation of the mount, through the kernel, by what POSIX says of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness import Cluster, drop_caches

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")

FAR = (1 << 60) - 1


@pytest.fixture
def where(shared: Cluster, request: pytest.FixtureRequest) -> Path:
    directory = shared.mountpoint / request.node.name.replace("/", "_")[:200]
    directory.mkdir()
    return directory


@contextlib.contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the number is what is checked)
        yield
    got = caught.value.errno
    assert got == number, f"{errno.errorcode.get(got or 0)} instead of {errno.errorcode[number]}"


def put(path: Path, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    return path


# --- Names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 100, 254, 255])
def test_names_up_to_255_bytes(where: Path, length: int) -> None:
    name = os.fsencode(where) + b"/" + b"\xc3" * length
    descriptor = os.open(name, os.O_CREAT | os.O_WRONLY)
    os.close(descriptor)
    assert os.listdir(os.fsencode(where)) == [b"\xc3" * length]
    os.unlink(name)


def test_any_bytes_but_slash_and_nul_make_a_name(where: Path) -> None:
    names = {b"n" + bytes([value]) for value in range(1, 256) if value != ord("/")}
    for name in names:
        os.close(os.open(os.fsencode(where) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert set(os.listdir(os.fsencode(where))) == names


@pytest.mark.parametrize(
    "call",
    [
        lambda path: os.open(path, os.O_CREAT | os.O_WRONLY),
        os.mkdir,
        os.stat,
        os.unlink,
        os.rmdir,
        os.mkfifo,
        lambda path: os.symlink("target", path),
        lambda path: os.rename(path, path),
        lambda path: os.rename(Path(path).parent, path),
    ],
)
def test_longer_names_are_too_long(where: Path, call: Callable[[str], object]) -> None:
    with fails(errno.ENAMETOOLONG):
        call(f"{where}/{'x' * 256}")


def test_names_that_are_not_there(where: Path) -> None:
    absent = where / "absent"
    for call in (os.stat, os.unlink, os.rmdir, os.readlink, os.listdir):
        with fails(errno.ENOENT):
            call(absent)
    with fails(errno.ENOENT):
        os.rename(absent, where / "other")
    with fails(errno.ENOENT):
        os.link(absent, where / "other")
    put(absent)
    os.stat(absent)
    absent.unlink()
    with fails(errno.ENOENT):
        os.stat(absent)


def test_kinds_of_objects_and_their_refusals(where: Path) -> None:
    file, directory = put(where / "file"), where / "directory"
    directory.mkdir()
    put(directory / "inner")
    with fails(errno.ENOTDIR):
        os.stat(file / "below")
    with fails(errno.ENOTDIR):
        os.rmdir(file)
    with fails(errno.EISDIR):
        os.unlink(directory)
    with fails(errno.ENOTEMPTY):
        os.rmdir(directory)
    with fails(errno.EEXIST):
        os.mkdir(file)
    with fails(errno.EEXIST):
        os.open(file, os.O_CREAT | os.O_EXCL)
    with fails(errno.EISDIR):
        os.open(directory, os.O_WRONLY)
    with fails(errno.EPERM):
        os.link(directory, where / "link")
    with fails(errno.EXDEV):
        os.rename(file, "/tmp/elsewhere")
    with fails(errno.ELOOP):
        os.symlink("loop", where / "loop")
        os.stat(where / "loop")


def test_special_files(where: Path) -> None:
    os.mkfifo(where / "fifo", 0o640)
    assert stat.S_ISFIFO(os.lstat(where / "fifo").st_mode)
    os.mknod(where / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    found = os.lstat(where / "char")
    assert stat.S_ISCHR(found.st_mode)
    assert found.st_rdev == os.makedev(1, 3)
    assert (where / "char").read_bytes() == b""
    os.mknod(where / "block", stat.S_IFBLK | 0o600, os.makedev(300, 70000))
    assert os.lstat(where / "block").st_rdev == os.makedev(300, 70000)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(where / "s")[-100:] if len(str(where)) < 90 else f"/proc/self/cwd/{'s'}")


def test_symbolic_links(where: Path) -> None:
    for length in (1, 100, 4095):
        target = "t" * length
        link = where / f"link{length}"
        os.symlink(target, link)
        assert os.readlink(link) == target
        assert os.lstat(link).st_size == length
    put(where / "file", b"through")
    os.symlink("file", where / "to-file")
    assert (where / "to-file").read_bytes() == b"through"


def test_link_counts(where: Path) -> None:
    file = put(where / "file")
    assert os.stat(file).st_nlink == 1
    for number in range(5):
        os.link(file, where / f"link{number}")
        assert os.stat(file).st_nlink == number + 2
    assert len({os.stat(path).st_ino for path in where.iterdir()}) == 1
    for number in range(5):
        os.unlink(where / f"link{number}")
    assert os.stat(file).st_nlink == 1
    assert os.stat(where).st_nlink == 2
    for number in range(3):
        (where / f"d{number}").mkdir()
        assert os.stat(where).st_nlink == 3 + number
    os.rename(where / "d0", where / "d1" / "moved")
    assert os.stat(where).st_nlink == 4
    assert os.stat(where / "d1").st_nlink == 3
    os.rmdir(where / "d1" / "moved")
    assert os.stat(where / "d1").st_nlink == 2


# --- Rename -----------------------------------------------------------------------------------


def test_rename_replaces_what_it_may(where: Path) -> None:
    old, new = put(where / "old", b"old"), put(where / "new", b"new")
    os.rename(old, new)
    assert new.read_bytes() == b"old"
    assert not old.exists()
    empty, full = where / "empty", where / "full"
    empty.mkdir()
    full.mkdir()
    put(full / "inner")
    with fails(errno.ENOTEMPTY):
        os.rename(empty, full)
    os.rename(full, empty)
    assert (empty / "inner").exists()
    with fails(errno.EISDIR):
        os.rename(new, empty)
    with fails(errno.ENOTDIR):
        os.rename(empty, new)
    with fails(errno.EINVAL):
        os.rename(empty, empty / "below")
    os.link(new, where / "twin")
    os.rename(new, where / "twin")
    assert new.exists(), "renaming between names of one inode does nothing"


def test_rename_flags(where: Path) -> None:
    one, two = put(where / "one", b"1"), put(where / "two", b"2")
    exchange = ["mv", "--exchange"]
    if subprocess.run([*exchange, "--help"], capture_output=True, check=False).returncode == 0:
        subprocess.run([*exchange, str(one), str(two)], check=True)
        assert (one.read_bytes(), two.read_bytes()) == (b"2", b"1")
    subprocess.run(["mv", "-n", str(one), str(two)], check=False, capture_output=True)
    assert one.exists()


def test_rename_over_an_open_file_keeps_it_readable(where: Path) -> None:
    old = put(where / "old", b"old" * 1000)
    with old.open("rb") as held:
        os.rename(put(where / "new", b"new"), old)
        assert old.read_bytes() == b"new"
        assert held.read() == b"old" * 1000
        assert os.fstat(held.fileno()).st_nlink == 0


# --- Open, read, write ------------------------------------------------------------------------


def test_an_unlinked_file_works_until_it_is_closed(where: Path) -> None:
    path = where / "file"
    with path.open("w+b", buffering=0) as file:
        file.write(b"a" * 100_000)
        os.unlink(path)
        file.seek(50_000)
        file.write(b"b")
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o600)
        drop_caches()
        file.seek(49_999)
        assert file.read(3) == b"aba"
        os.ftruncate(file.fileno(), 10)
        assert os.fstat(file.fileno()).st_size == 10
    assert not path.exists()


def test_open_flags(where: Path) -> None:
    file = put(where / "file", b"0123456789")
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"ab")
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"cd")
    os.close(descriptor)
    assert file.read_bytes() == b"0123456789abcd"
    descriptor = os.open(file, os.O_RDONLY)
    with fails(errno.EBADF):
        os.write(descriptor, b"x")
    os.close(descriptor)
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
    assert file.read_bytes() == b""
    with fails(errno.ENOTDIR):
        os.open(file, os.O_RDONLY | os.O_DIRECTORY)
    os.symlink("file", where / "link")
    with fails(errno.ELOOP):
        os.open(where / "link", os.O_RDONLY | os.O_NOFOLLOW)


def test_appends_of_many_writers_never_overlap(where: Path) -> None:
    path, each, writers = where / "log", 200, 8

    def write(number: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for count in range(each):
            os.write(descriptor, b"%02d:%05d\n" % (number, count))
        os.close(descriptor)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_bytes().splitlines()
    assert len(lines) == each * writers == len(set(lines))


def test_sparse_files_and_the_ends_of_files(where: Path) -> None:
    path = where / "sparse"
    with path.open("w+b", buffering=0) as file:
        file.seek(1 << 40)
        file.write(b"end")
        assert os.fstat(file.fileno()).st_size == (1 << 40) + 3
        os.fsync(file.fileno())
        drop_caches()
        assert os.pread(file.fileno(), 100, (1 << 40) - 50) == bytes(50) + b"end"
        assert os.pread(file.fileno(), 10, 12345) == bytes(10)
        assert os.fstat(file.fileno()).st_blocks <= 8
        os.ftruncate(file.fileno(), FAR)
        assert os.fstat(file.fileno()).st_size == FAR
        with fails(errno.EFBIG):
            os.ftruncate(file.fileno(), FAR + 2)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 131071, 131072, 131073, 1 << 20, 5_000_001])
def test_sizes_around_blocks_and_stripes(where: Path, size: int) -> None:
    content = os.urandom(size)
    path = put(where / "file", content)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    drop_caches()
    assert path.read_bytes() == content
    for cut in (size, size // 2, size // 2 + 1, 1, 0):
        if cut <= len(content):
            os.truncate(path, cut)
            content = content[:cut]
            assert path.read_bytes() == content
    os.truncate(path, 10_000)
    drop_caches()
    assert path.read_bytes() == bytes(10_000)


def test_shared_mappings_and_files_are_one(where: Path) -> None:
    path = put(where / "file", b"a" * 300_000)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[100:103] = b"map"
        assert os.pread(file.fileno(), 5, 99) == b"amapa"
        os.pwrite(file.fileno(), b"file", 200_000)
        assert mapped[199_999:200_005] == b"afilea"
        mapped.flush()
    drop_caches()
    assert path.read_bytes()[99:104] == b"amapa"


def test_direct_input_and_output(where: Path) -> None:
    path = where / "direct"
    buffer = mmap.mmap(-1, 1 << 20)
    buffer[:] = os.urandom(1 << 20)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.pwritev(descriptor, [buffer], 4096) == 1 << 20
    back = mmap.mmap(-1, 1 << 20)
    assert os.preadv(descriptor, [back], 4096) == 1 << 20
    assert back[:] == buffer[:]
    os.close(descriptor)
    assert path.read_bytes() == bytes(4096) + buffer[:]


def test_locks_between_processes_of_one_host(where: Path) -> None:
    path = put(where / "file")
    with path.open("r+b") as one, path.open("r+b") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with fails(errno.EAGAIN):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_cannot_be_offered_fails_as_the_kernel_says(where: Path) -> None:
    path = put(where / "file", b"x" * 5000)
    library = ctypes.CDLL(None, use_errno=True)
    length = ctypes.c_int64(10_000)
    with path.open("r+b") as file:
        assert library.fallocate(file.fileno(), 0, ctypes.c_int64(0), length) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 5000
        with path.with_name("copy").open("wb") as copy:
            assert os.copy_file_range(file.fileno(), copy.fileno(), 5000, 0) == 5000
    assert path.with_name("copy").read_bytes() == b"x" * 5000
    with fails(errno.EOPNOTSUPP):
        os.open(where, os.O_TMPFILE | os.O_RDWR)


# --- Attributes -------------------------------------------------------------------------------


def test_times_to_the_nanosecond(where: Path) -> None:
    path = put(where / "file")
    for atime, mtime in ((1, 2), (1_234_567_890_123_456_789, 987_654_321), (0, 1 << 61)):
        os.utime(path, ns=(atime, mtime))
        found = os.stat(path)
        assert (found.st_atime_ns, found.st_mtime_ns) == (atime, mtime)
    drop_caches()
    found = os.stat(path)
    assert (found.st_atime_ns, found.st_mtime_ns) == (0, 1 << 61)


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (lambda p: os.chmod(p / "f", 0o600), {"f": "c"}),
        (lambda p: os.chown(p / "f", 1, 1), {"f": "c"}),
        (lambda p: os.link(p / "f", p / "g"), {"f": "c", ".": "cm"}),
        (lambda p: os.unlink(p / "f"), {".": "cm"}),
        (lambda p: os.rename(p / "f", p / "h"), {".": "cm"}),
        (lambda p: os.mkdir(p / "d"), {".": "cm"}),
        (lambda p: (p / "f").write_bytes(b"more"), {"f": "cm"}),
        (lambda p: os.truncate(p / "f", 3), {"f": "cm"}),
        (lambda p: os.setxattr(p / "f", "user.a", b"b"), {"f": "c"}),
        (lambda p: os.symlink("t", p / "s"), {".": "cm"}),
        (lambda p: os.mkfifo(p / "p"), {".": "cm"}),
    ],
)
def test_which_times_an_operation_moves(
    where: Path, change: Callable[[Path], object], moved: dict[str, str]
) -> None:
    put(where / "f")
    before = {name: os.stat(where / name) for name in ("f", ".")}
    change(where)
    for name, old in before.items():
        if not (where / name).exists():
            continue
        new = os.stat(where / name)
        letters = moved.get(name, "")
        assert (new.st_ctime_ns > old.st_ctime_ns) == ("c" in letters), (name, "ctime")
        assert (new.st_mtime_ns > old.st_mtime_ns) == ("m" in letters), (name, "mtime")


def as_user(uid: int, where: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody else in `where`, though the way there is closed to him."""
    return subprocess.run(
        command,
        user=uid,
        group=uid,
        extra_groups=[],
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
    )


def test_permissions_are_checked(where: Path) -> None:
    os.chmod(where, 0o755)
    secret = put(where / "secret")
    os.chmod(secret, 0o600)
    assert as_user(1000, where, "cat", "secret").returncode != 0
    os.chown(secret, 1000, 1000)
    assert as_user(1000, where, "cat", "secret").stdout == "content"
    assert as_user(1000, where, "touch", "new").returncode != 0
    sticky = where / "sticky"
    sticky.mkdir()
    os.chmod(sticky, 0o1777)
    put(sticky / "roots")
    os.chmod(sticky / "roots", 0o666)
    assert as_user(1000, where, "rm", "-f", "sticky/roots").returncode != 0


def test_set_user_id_goes_on_write_and_chown_by_others(where: Path) -> None:
    os.chmod(where, 0o777)
    for command in (["sh", "-c", "echo x >> suid"], ["sh", "-c", ": > suid"]):
        path = put(where / "suid")
        os.chmod(path, 0o6777)
        assert as_user(1000, where, *command).returncode == 0
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o777
        path.unlink()
    path = put(where / "suid")
    os.chown(path, 1000, 1000)
    os.chmod(path, 0o6755)
    assert as_user(1000, where, "chown", "1000:1000", "suid").returncode == 0
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755


def test_set_group_id_directories_hand_down_the_group(where: Path) -> None:
    os.chown(where, 0, 777)
    os.chmod(where, 0o2755)
    (where / "d").mkdir()
    put(where / "f")
    assert os.stat(where / "d").st_gid == os.stat(where / "f").st_gid == 777
    assert os.stat(where / "d").st_mode & stat.S_ISGID


def test_extended_attributes(where: Path) -> None:
    path = put(where / "file")
    with fails(errno.ENODATA):
        os.getxattr(path, "user.absent")
    for size in (0, 1, 1000, 65536):
        os.setxattr(path, f"user.size{size}", b"v" * size)
        assert os.getxattr(path, f"user.size{size}") == b"v" * size
    with fails(errno.E2BIG):
        os.setxattr(path, "user.big", b"v" * 65537)
    with fails(errno.EEXIST):
        os.setxattr(path, "user.size1", b"", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        os.setxattr(path, "user.none", b"", os.XATTR_REPLACE)
    os.setxattr(path, "user.size1", b"other", os.XATTR_REPLACE)
    os.setxattr(path, "trusted.t", b"root only")
    drop_caches()
    assert os.getxattr(path, "user.size1") == b"other"
    assert set(os.listxattr(path)) == {
        "user.size0",
        "user.size1",
        "user.size1000",
        "user.size65536",
        "trusted.t",
    }
    for name in os.listxattr(path):
        os.removexattr(path, name)
    assert os.listxattr(path) == []
    with fails(errno.ENODATA):
        os.removexattr(path, "user.size1")


def test_access_control_lists(where: Path) -> None:
    os.chmod(where, 0o755)
    path = put(where / "file")
    os.chmod(path, 0o600)
    subprocess.run(["setfacl", "-m", "u:1000:r", str(path)], check=True)
    assert as_user(1000, where, "cat", "file").stdout == "content"
    assert as_user(1001, where, "cat", "file").returncode != 0
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    os.chmod(path, 0o600)
    assert as_user(1000, where, "cat", "file").returncode != 0
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx,g::rx,o::-", str(where)], check=True)
    old = os.umask(0o077)
    try:
        inherited = put(where / "inherited")
        (where / "d").mkdir()
    finally:
        os.umask(old)
    listed = subprocess.run(
        ["getfacl", "-cEn", str(inherited), str(where / "d")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "user:1000:rwx" in listed
    assert "default:user:1000:rwx" in listed
    assert stat.S_IMODE(os.stat(inherited).st_mode) == 0o660


def test_the_umask_applies(where: Path) -> None:
    old = os.umask(0o027)
    try:
        os.close(os.open(where / "f", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(where / "d", 0o777)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(where / "f").st_mode) == 0o640
    assert stat.S_IMODE(os.stat(where / "d").st_mode) == 0o750


# --- Directories ------------------------------------------------------------------------------


def test_a_listing_misses_and_repeats_nothing_while_entries_change(where: Path) -> None:
    stable = {f"stable{number}" for number in range(1500)}
    for name in stable:
        put(where / name, b"")
    seen: list[str] = []
    with os.scandir(where) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number % 3 == 0:
                put(where / f"new{number}", b"")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(where / f"new{number - 30}")
    assert len(seen) == len(set(seen))
    assert stable <= set(seen)


def test_a_directory_may_be_removed_while_it_is_listed(where: Path) -> None:
    directory = where / "d"
    directory.mkdir()
    for number in range(300):
        put(directory / f"f{number}", b"")
    with os.scandir(directory) as entries:
        for entry in entries:
            os.unlink(entry.path)
    os.rmdir(directory)
    descriptor = os.open(where, os.O_RDONLY)
    os.mkdir("gone", dir_fd=descriptor)
    gone = os.open("gone", os.O_RDONLY, dir_fd=descriptor)
    os.rmdir("gone", dir_fd=descriptor)
    assert os.listdir(gone) == []
    with fails(errno.ENOENT):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=gone)
    os.fsync(descriptor)
    os.close(gone)
    os.close(descriptor)


def test_statfs(where: Path) -> None:
    found = os.statvfs(where)
    assert found.f_namemax == 255
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert found.f_favail > 1 << 30

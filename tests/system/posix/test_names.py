"""Names: any bytes, any length up to the limit, and paths as long as they may be."""

from __future__ import annotations

import errno
import os

import pytest

from tests.system.harness import wait_until
from tests.system.posix import calls
from tests.system.posix.spot import Spot

NAME_MAX, PATH_MAX = 255, 4096


@pytest.mark.parametrize("length", [1, 2, 100, 254, NAME_MAX])
def test_names_up_to_the_limit_for_every_kind(spot: Spot, length: int) -> None:
    top = os.fsencode(spot.path) + b"/"
    for byte in (b"x", b"\xc3", b"."):
        if byte == b"." and length <= 2:
            continue
        name = byte * length
        for make in (calls.created, os.mkdir, os.mkfifo, calls.symlinked_at):
            spot.gives(0, make, top + name)
            spot.same(os.listdir(os.fsencode(spot.path)), [name], make.__name__)
            spot.gives(0, os.lstat, top + name)
            other = b"y" * length
            spot.gives(0, os.rename, top + name, top + other)
            (os.rmdir if make is os.mkdir else os.unlink)(top + other)
    spot.same(os.listdir(spot.path), [])


def test_any_bytes_but_slash_and_nul_make_a_name(spot: Spot) -> None:
    top = os.fsencode(spot.path) + b"/"
    names = {bytes([value]) for value in range(1, 256)} - {b"/", b"."}
    for name in sorted(names):
        spot.gives(0, calls.created_exclusively, top + name)
    spot.same(set(os.listdir(top)), names)
    for name in sorted(names):
        spot.gives(0, os.unlink, top + name)
    spot.same(os.listdir(top), [])


def test_names_that_look_alike_are_not_the_same(spot: Spot) -> None:
    top = os.fsencode(spot.path) + b"/"
    alike = ["é".encode(), "e\u0301".encode(), b"\xe9", b"FILE", b"file", b"file ", b" file"]
    alike += [b"...", b"..a", b".a", b"-", b"--", b"~", b"*", b"a\nb", b"a\tb", b"\\", b"con"]
    for number, name in enumerate(alike):
        descriptor = os.open(top + name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(descriptor, b"%d" % number)
        os.close(descriptor)
    for number, name in enumerate(alike):
        spot.same(calls.read_bytes(top + name), b"%d" % number, name)
    spot.same(set(os.listdir(top)), set(alike))


def test_dot_and_dot_dot_are_there_and_stay(spot: Spot) -> None:
    directory = spot.directory("d")
    spot.same(os.stat(f"{directory}/.").st_ino, os.stat(directory).st_ino)
    spot.same(os.stat(f"{directory}/..").st_ino, os.stat(spot.path).st_ino)
    for name in (".", ".."):
        spot.gives(errno.EEXIST, os.mkdir, f"{directory}/{name}")
        spot.gives(errno.EEXIST, os.symlink, "target", f"{directory}/{name}")
        spot.gives(errno.EEXIST, os.mkfifo, f"{directory}/{name}")
        spot.gives(errno.EEXIST, os.link, spot.file("file"), f"{directory}/{name}")
        spot.gives(errno.EISDIR, calls.created, f"{directory}/{name}")
        spot.gives(errno.EISDIR, os.unlink, f"{directory}/{name}")
    spot.gives(errno.EINVAL, os.rmdir, f"{directory}/.")
    spot.gives(errno.ENOTEMPTY, os.rmdir, f"{directory}/..")
    spot.same(os.listdir(directory), [])


def test_paths_as_long_as_they_may_be(spot: Spot) -> None:
    """A path argument has at most 4,095 bytes; a tree may be deeper than that."""
    depth, name = 25, "d" * 200
    old = os.getcwd()
    try:
        os.chdir(spot.path)
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
        spot.gives(0, calls.created, "bottom")
        spot.gives(errno.ENAMETOOLONG, os.stat, spot.path / "/".join([name] * depth))
        for _ in range(depth):
            spot.gives(0, os.stat, ".")
            os.chdir("..")
        spot.same(os.stat(".").st_ino, os.stat(spot.path).st_ino, "the way back")
    finally:
        os.chdir(old)
    short = os.fsencode(spot.path) + b"/"
    exact = short + b"./" * ((PATH_MAX - 1 - len(short) - 1) // 2)
    exact += b"x" * (PATH_MAX - 1 - len(exact))
    spot.same(len(exact), PATH_MAX - 1)
    spot.gives(0, calls.created, exact)
    spot.gives(0, os.stat, exact)
    spot.gives(errno.ENAMETOOLONG, os.stat, exact + b"y")
    spot.gives(0, os.unlink, exact)


def test_slashes_are_one(spot: Spot) -> None:
    spot.directory("d")
    spot.file("d/file")
    for path in ("d//file", "d/./file", "d/../d/file", ".//d///file", "d/../d/./file"):
        spot.gives(0, os.stat, f"{spot.path}/{path}")
    for path in ("d/file/", "d/file//", "d/file/."):
        spot.gives(errno.ENOTDIR, os.stat, f"{spot.path}/{path}")
    spot.gives(0, os.mkdir, f"{spot.path}/new///")
    spot.gives(0, os.rename, f"{spot.path}/new/", f"{spot.path}/newer/")
    spot.gives(0, os.rmdir, f"{spot.path}/newer//")


def test_an_absent_name_is_found_as_soon_as_it_is_there(spot: Spot) -> None:
    path = spot / "name"
    rival = spot.process()
    for make, remove in ((calls.created, os.unlink), (os.mkdir, os.rmdir), (os.mkfifo, os.unlink)):
        spot.gives(errno.ENOENT, os.stat, path)
        rival.run(make, path)
        spot.gives(0, os.stat, path)
        rival.run(remove, path)
        spot.gives(errno.ENOENT, os.stat, path)
        rival.run(make, path)
        rival.run(os.rename, path, spot / "other")
        spot.gives(errno.ENOENT, os.stat, path)
        spot.gives(0, os.stat, spot / "other")
        rival.run(remove, spot / "other")
    rival.close()


def test_files_are_opened_by_handle(mounted: Spot) -> None:
    """What a file server does: a handle outlives caches, and is stale once the file is gone."""
    path = mounted.file("file", b"content")
    (mounted / "d" / "e").mkdir(parents=True)
    top = os.open(mounted.root, os.O_RDONLY)
    handles = {p: calls.name_to_handle(p) for p in (path, mounted / "d", mounted / "d" / "e")}
    for target, handle in handles.items():
        descriptor = calls.open_by_handle(top, handle, os.O_RDONLY)
        mounted.same(os.fstat(descriptor).st_ino, os.stat(target).st_ino, target.name)
        os.close(descriptor)
    os.rename(path, mounted / "renamed")
    descriptor = calls.open_by_handle(top, handles[path], os.O_RDONLY)
    mounted.same(os.read(descriptor, 100), b"content", "after a rename")
    os.close(descriptor)
    os.unlink(mounted / "renamed")

    def stale() -> bool:
        # The kernel holds the inode until the last close has been answered.
        try:
            os.close(calls.open_by_handle(top, handles[path], os.O_RDONLY))
        except OSError as error:
            return error.errno == errno.ESTALE
        return False

    wait_until(stale, "a handle of a removed file is stale")
    os.close(top)

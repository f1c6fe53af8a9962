"""Listings: cookies, seekdir and telldir, and what a listing holds while entries change."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.system.posix import calls
from tests.system.posix.spot import Spot

DT = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "link": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}


def listed(descriptor: int, size: int = calls.GETDENTS_BYTES) -> list[calls.Dirent]:
    """Return everything from where the descriptor stands."""
    found: list[calls.Dirent] = []
    while page := calls.getdents(descriptor, size):
        found += page
    return found


def names(entries: list[calls.Dirent]) -> list[bytes]:
    return [entry.name for entry in entries if entry.name not in (b".", b"..")]


def fill(directory: Path, prefix: str, count: int) -> set[bytes]:
    for number in range(count):
        os.close(os.open(directory / f"{prefix}{number}", os.O_CREAT | os.O_WRONLY))
    return {f"{prefix}{number}".encode() for number in range(count)}


def test_entries_say_what_stat_says(spot: Spot) -> None:
    spot.file("file")
    spot.directory("directory")
    os.symlink("nowhere", spot / "link")
    os.mkfifo(spot / "fifo")
    calls.made_socket(spot / "socket")
    calls.made_device(spot / "char")
    os.mknod(spot / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    descriptor = os.open(spot.path, os.O_RDONLY)
    found = {entry.name.decode(): entry for entry in listed(descriptor)}
    os.close(descriptor)
    spot.same(set(found), {*DT, ".", ".."})
    for name, kind in DT.items():
        spot.same(found[name].type, kind >> 12, f"type of the {name}")
        spot.same(found[name].inode, os.lstat(spot / name).st_ino, f"inode of the {name}")
    spot.same(found["."].inode, os.stat(spot.path).st_ino)
    spot.same(found[".."].inode, os.stat(spot.path.parent).st_ino)
    spot.same((found["."].type, found[".."].type), (4, 4))
    for entry in os.scandir(spot.path):
        spot.same(entry.stat(follow_symlinks=False).st_mode, os.lstat(entry.path).st_mode)


def test_every_cookie_leads_on(spot: Spot) -> None:
    fill(spot.path, "f", 60)
    descriptor = os.open(spot.path, os.O_RDONLY)
    entries = listed(descriptor, 400)
    spot.same(len({entry.cookie for entry in entries}), 62, "cookies are unique")
    spot.same(len({entry.name for entry in entries}), 62)
    for place, entry in enumerate(entries):
        os.lseek(descriptor, entry.cookie, os.SEEK_SET)
        rest = calls.getdents(descriptor, 200)
        following = [later.name for later in entries[place + 1 :]]
        spot.same([later.name for later in rest], following[: len(rest)], f"after entry {place}")
        if place + 1 < len(entries):
            spot.true(rest, f"something comes after entry {place}")
    os.lseek(descriptor, 0, os.SEEK_SET)
    spot.same(listed(descriptor), entries, "rewound")
    spot.same(listed(descriptor), [], "at the end")
    fill(spot.path, "late", 1)
    os.lseek(descriptor, 0, os.SEEK_SET)
    spot.true(b"late0" in names(listed(descriptor)), "a rewound listing shows what is new")
    os.lseek(descriptor, 0, os.SEEK_SET)
    spot.gives(errno.EINVAL, calls.getdents, descriptor, 8)
    spot.gives(errno.EINVAL, os.lseek, descriptor, -1, os.SEEK_SET)
    os.close(descriptor)
    file = os.open(spot.file("file"), os.O_RDONLY)
    spot.gives(errno.ENOTDIR, calls.getdents, file)
    os.close(file)


def test_cookies_outlive_changes_around_them(mounted: Spot) -> None:
    stable = fill(mounted.path, "stable", 300)
    descriptor = os.open(mounted.path, os.O_RDONLY)
    before = listed(descriptor)
    order = [entry.name for entry in before]
    fill(mounted.path, "new", 300)
    gone = {name for number, name in enumerate(sorted(stable)) if number % 3 == 0}
    for name in gone:
        os.unlink(os.fsencode(mounted.path) + b"/" + name)
    for entry in before[:: len(before) // 40]:
        os.lseek(descriptor, entry.cookie, os.SEEK_SET)
        rest = [n for n in names(listed(descriptor)) if n in stable]
        want = [n for n in order[order.index(entry.name) + 1 :] if n in stable - gone]
        mounted.same(rest, want, f"what was stable after {entry.name!r}")
    os.close(descriptor)


def test_a_listing_misses_and_repeats_nothing_while_thousands_change(
    mounted: Spot, long_form: bool
) -> None:
    stable = fill(mounted.path, "stable", 800)
    rival = mounted.process()
    descriptor = os.open(mounted.path, os.O_RDONLY)
    rounds = 0
    rival.start(_churn, mounted.path, 5000 if long_form else 250)
    while rival.busy or not rounds:
        os.lseek(descriptor, 0, os.SEEK_SET)
        seen = names(listed(descriptor, (400, 4096, 32768)[rounds % 3]))
        mounted.same(len(seen), len(set(seen)), "nothing twice")
        mounted.true(stable <= set(seen), "nothing missing")
        rounds += 1
    rival.finish()
    rival.close()
    os.close(descriptor)
    mounted.same({os.fsencode(name) for name in os.listdir(mounted.path)}, stable, "the end")


def _churn(directory: str, times: int) -> None:
    for number in range(times):
        path = os.path.join(directory, f"new{number}")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        if number % 2:
            os.rename(path, path + "-renamed")
            path += "-renamed"
        if number % 10 == 0:
            continue
        os.unlink(path)
    for name in os.listdir(directory):
        if name.startswith("new"):
            os.unlink(os.path.join(directory, name))


def test_a_directory_is_emptied_while_it_is_listed(spot: Spot) -> None:
    directory = spot.directory("d")
    fill(directory, "f", 400)
    with os.scandir(directory) as entries:
        for entry in entries:
            os.unlink(entry.path)
    spot.gives(0, os.rmdir, directory)


def test_renames_while_listing_show_each_file_under_some_name(mounted: Spot) -> None:
    fill(mounted.path, "old", 400)
    seen: set[int] = set()
    with os.scandir(mounted.path) as entries:
        for number, entry in enumerate(entries):
            if entry.name.startswith("old"):
                seen.add(int(entry.name[3:]))
            if number % 5 == 0 and (mounted / f"old{number}").exists():
                os.rename(mounted / f"old{number}", mounted / f"new{number}")
    renamed = {int(name[3:]) for name in os.listdir(mounted.path) if name.startswith("new")}
    mounted.same(seen | renamed, set(range(400)), "all of them")


def test_two_descriptors_stand_where_each_was(spot: Spot) -> None:
    fill(spot.path, "f", 50)
    one, two = os.open(spot.path, os.O_RDONLY), os.open(spot.path, os.O_RDONLY)
    first = calls.getdents(one, 400)
    spot.same(calls.getdents(two, 400), first, "the second starts at the start")
    copy = os.dup(one)
    following = calls.getdents(copy, 400)
    spot.true(following[0] not in first, "a copy stands where its original stands")
    spot.true(calls.getdents(one, 400)[0] not in following, "and moves it")
    for descriptor in (one, two, copy):
        os.close(descriptor)


def test_rmdir_refusals(spot: Spot) -> None:
    directory = spot.directory("d")
    (directory / "inner").mkdir()
    spot.gives(errno.ENOTEMPTY, os.rmdir, directory)
    spot.gives(errno.EINVAL, os.rmdir, f"{directory}/inner/.")
    spot.gives(errno.EINVAL, os.rmdir, f"{directory}/.")
    spot.gives(errno.ENOTEMPTY, os.rmdir, f"{directory}/inner/..")
    spot.gives(errno.ENOTDIR, os.rmdir, spot.file("file"))
    os.symlink("d", spot / "link")
    spot.gives(errno.ENOTDIR, os.rmdir, spot / "link")
    spot.gives(errno.EISDIR, os.unlink, directory)
    spot.gives(0, os.rmdir, f"{directory}/inner/")
    spot.gives(0, os.rmdir, directory)


def test_the_root_of_a_mount_stays(mounted: Spot) -> None:
    mounted.gives(errno.EBUSY, os.rmdir, mounted.root)
    mounted.gives(errno.EBUSY, os.rename, mounted.root, mounted.root.parent / "elsewhere")
    mounted.same(os.stat(mounted.root / "..").st_ino, os.stat(mounted.root.parent).st_ino)
    mounted.same(os.stat(mounted.root).st_ino, 1)


@pytest.mark.long
def test_more_subdirectories_than_sixteen_bits_count(mounted: Spot) -> None:
    count = 66_000
    for number in range(count):
        os.mkdir(mounted / str(number))
    mounted.same(os.stat(mounted.path).st_nlink, count + 2)
    mounted.same(len(os.listdir(mounted.path)), count)
    for number in range(count):
        os.rmdir(mounted / str(number))
    mounted.same(os.stat(mounted.path).st_nlink, 2)

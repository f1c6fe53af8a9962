"""Locks between the processes of one host: flock, fcntl, and those of open files."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from tests.system.harness import wait_until
from tests.system.posix import calls
from tests.system.posix.actor import Actor
from tests.system.posix.checks import number_of
from tests.system.posix.spot import Spot

SH, EX, UN, NB = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN, fcntl.LOCK_NB
BUSY = errno.EAGAIN


def opened(process: Actor, path: Path, flags: int = os.O_RDWR) -> int:
    return int(process.run(os.open, path, flags))


def blocked(process: Actor) -> bool:
    """Whether /proc/locks shows the process waiting for a lock."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f" {process.pid} " in line for line in lines)


def test_flock_is_shared_or_exclusive(spot: Spot) -> None:
    path = spot.file("file")
    one, two, three = spot.process(), spot.process(), spot.process()
    d1, d2, d3 = (opened(process, path) for process in (one, two, three))
    spot.gives(0, one.run, fcntl.flock, d1, SH)
    spot.gives(0, two.run, fcntl.flock, d2, SH | NB)
    spot.gives(BUSY, three.run, fcntl.flock, d3, EX | NB)
    spot.gives(BUSY, one.run, fcntl.flock, d1, EX | NB)
    spot.gives(0, two.run, fcntl.flock, d2, UN)
    spot.gives(0, one.run, fcntl.flock, d1, EX | NB)
    for process, descriptor in ((two, d2), (three, d3)):
        spot.gives(BUSY, process.run, fcntl.flock, descriptor, SH | NB)
    spot.gives(0, one.run, os.close, d1)
    spot.gives(0, three.run, fcntl.flock, d3, EX | NB)
    three.kill()
    wait_until(lambda: two.run(_taken, d2), "the lock of a killed process is free")
    for process in (one, two):
        process.close()


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, EX | NB)
    except BlockingIOError:
        return False
    return True


def test_flock_belongs_to_the_open_file(spot: Spot) -> None:
    path = spot.file("file")
    one, two = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    copy = os.dup(one)
    fcntl.flock(one, EX)
    spot.gives(BUSY, fcntl.flock, two, EX | NB)
    spot.gives(0, fcntl.flock, copy, EX | NB)
    os.close(one)
    spot.gives(BUSY, fcntl.flock, two, EX | NB)
    os.close(copy)
    spot.gives(0, fcntl.flock, two, EX | NB)
    os.close(two)
    directory = os.open(spot.path, os.O_RDONLY)
    spot.gives(0, fcntl.flock, directory, EX | NB)
    os.close(directory)
    held = os.open(path, os.O_PATH)
    spot.gives(errno.EBADF, fcntl.flock, held, SH)
    os.close(held)


def test_a_waiting_flock_is_handed_over(spot: Spot) -> None:
    path = spot.file("file")
    one, two = spot.process(), spot.process()
    d1, d2 = opened(one, path), opened(two, path)
    for release in ("unlock", "close", "exit"):
        one.run(fcntl.flock, d1, EX)
        two.start(fcntl.flock, d2, EX)
        wait_until(lambda: blocked(two), "the second waits")
        spot.true(two.busy, "it waits")
        if release == "unlock":
            one.run(fcntl.flock, d1, UN)
        elif release == "close":
            one.run(os.close, d1)
            d1 = opened(one, path)
        else:
            one.kill()
        spot.gives(0, two.finish)
        two.run(fcntl.flock, d2, UN)
    two.close()


RANGES = [
    # held by one, asked by the other: kind, start, length; whether it is free
    ((fcntl.F_WRLCK, 0, 10), (fcntl.F_WRLCK, 0, 10), False),
    ((fcntl.F_WRLCK, 0, 10), (fcntl.F_RDLCK, 9, 1), False),
    ((fcntl.F_WRLCK, 0, 10), (fcntl.F_WRLCK, 10, 10), True),
    ((fcntl.F_RDLCK, 0, 10), (fcntl.F_RDLCK, 5, 10), True),
    ((fcntl.F_RDLCK, 0, 10), (fcntl.F_WRLCK, 5, 10), False),
    ((fcntl.F_WRLCK, 100, 0), (fcntl.F_WRLCK, 1 << 50, 1), False),
    ((fcntl.F_WRLCK, 100, 0), (fcntl.F_WRLCK, 0, 100), True),
    ((fcntl.F_WRLCK, 0, 0), (fcntl.F_RDLCK, 0, 1), False),
    ((fcntl.F_WRLCK, 5, 1), (fcntl.F_WRLCK, 4, 1), True),
    ((fcntl.F_WRLCK, 5, 1), (fcntl.F_WRLCK, 4, 2), False),
]


def test_ranges_of_posix_locks(spot: Spot) -> None:
    path = spot.file("file")
    other = spot.process()
    theirs = opened(other, path)
    mine = os.open(path, os.O_RDWR)
    for (kind, start, length), (asked, at, size), free in RANGES:
        what = f"{kind} {start}+{length} against {asked} {at}+{size}"
        fcntl.lockf(mine, SH if kind == fcntl.F_RDLCK else EX, length, start)
        number = 0
        try:
            other.run(fcntl.lockf, theirs, (SH if asked == fcntl.F_RDLCK else EX) | NB, size, at)
        except OSError as error:
            number = error.errno or 0
        spot.true(number in ({0} if free else {errno.EAGAIN, errno.EACCES}), what)
        found = other.run(calls.posix_lock_holder, theirs, asked, at, size)
        if free:
            spot.same(found[0], fcntl.F_UNLCK, f"holder: {what}")
        else:
            spot.same(found, (kind, start, os.getpid()), f"holder: {what}")
        fcntl.lockf(mine, UN)
        other.run(fcntl.lockf, theirs, UN)
    os.close(mine)
    other.close()


def test_posix_locks_split_and_join_and_go_with_any_close(spot: Spot) -> None:
    path = spot.file("file")
    other = spot.process()
    theirs = opened(other, path)
    mine = os.open(path, os.O_RDWR)
    fcntl.lockf(mine, EX, 30, 0)
    fcntl.lockf(mine, UN, 10, 10)
    for start, free in ((0, False), (9, False), (10, True), (19, True), (20, False), (29, False)):
        found = other.run(calls.posix_lock_holder, theirs, fcntl.F_WRLCK, start, 1)
        spot.same(found[0] == fcntl.F_UNLCK, free, f"byte {start} after a hole was unlocked")
    fcntl.lockf(mine, SH, 10, 20)
    found = other.run(calls.posix_lock_holder, theirs, fcntl.F_RDLCK, 20, 10)
    spot.same(found[0], fcntl.F_UNLCK, "a part became shared")
    os.close(os.open(path, os.O_RDONLY))
    found = other.run(calls.posix_lock_holder, theirs, fcntl.F_WRLCK, 0, 0)
    spot.same(found[0], fcntl.F_UNLCK, "closing any descriptor gives all locks back")
    os.close(mine)
    other.close()


def test_posix_locks_wait_and_are_handed_over(spot: Spot) -> None:
    path = spot.file("file")
    one, two = spot.process(), spot.process()
    d1, d2 = opened(one, path), opened(two, path)
    one.run(fcntl.lockf, d1, EX, 10, 0)
    two.start(fcntl.lockf, d2, EX, 10, 5)
    wait_until(lambda: blocked(two), "the second waits")
    one.run(fcntl.lockf, d1, UN, 5, 5)
    spot.gives(0, two.finish)
    one.start(fcntl.lockf, d1, EX, 10, 5)
    wait_until(lambda: blocked(one), "the first waits")
    spot.gives(errno.EDEADLK, two.run, fcntl.lockf, d2, EX, 5, 0)
    two.kill()
    spot.gives(0, one.finish)
    one.close()


def test_posix_locks_need_the_right_access(spot: Spot) -> None:
    path = spot.file("file")
    for flags, kind, want in (
        (os.O_RDONLY, EX, errno.EBADF),
        (os.O_RDONLY, SH, 0),
        (os.O_WRONLY, SH, errno.EBADF),
        (os.O_WRONLY, EX, 0),
    ):
        descriptor = os.open(path, flags)
        spot.gives(want, fcntl.lockf, descriptor, kind | NB)
        os.close(descriptor)


def test_posix_locks_are_not_inherited(spot: Spot) -> None:
    path = spot.file("file")
    descriptor = os.open(path, os.O_RDWR)
    fcntl.lockf(descriptor, EX)
    pid = os.fork()
    if pid == 0:
        os._exit(number_of(fcntl.lockf, descriptor, EX | NB))
    spot.same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), BUSY, "in the child")
    spot.gives(0, fcntl.lockf, descriptor, EX | NB)
    os.close(descriptor)


def test_locks_of_open_files(spot: Spot) -> None:
    path = spot.file("file")
    one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    copy = os.dup(one)
    calls.ofd_lock(one, fcntl.F_WRLCK, 0, 10)
    spot.gives(BUSY, calls.ofd_lock, two, fcntl.F_WRLCK, 5, 1)
    spot.gives(0, calls.ofd_lock, two, fcntl.F_WRLCK, 10, 1)
    spot.gives(0, calls.ofd_lock, copy, fcntl.F_WRLCK, 0, 10)
    spot.gives(BUSY, fcntl.lockf, two, EX | NB, 1, 0)
    os.close(os.open(path, os.O_RDONLY))
    spot.gives(BUSY, calls.ofd_lock, two, fcntl.F_RDLCK, 0, 1)
    os.close(one)
    spot.gives(BUSY, calls.ofd_lock, two, fcntl.F_RDLCK, 0, 1)
    os.close(copy)
    spot.gives(0, calls.ofd_lock, two, fcntl.F_WRLCK, 0, 10)
    other = spot.process()
    theirs = opened(other, path)
    other.start(calls.ofd_lock, theirs, fcntl.F_WRLCK, 0, 10, wait=True)
    os.close(two)
    spot.gives(0, other.finish)
    other.close()


def test_flock_and_posix_locks_do_not_see_each_other(spot: Spot) -> None:
    path = spot.file("file")
    one = os.open(path, os.O_RDWR)
    fcntl.flock(one, EX)
    other = spot.process()
    theirs = opened(other, path)
    spot.gives(0, other.run, fcntl.lockf, theirs, EX | NB)
    spot.gives(BUSY, other.run, fcntl.flock, theirs, EX | NB)
    other.close()
    os.close(one)


def test_locks_survive_a_rename_and_an_unlink(spot: Spot) -> None:
    path = spot.file("file")
    mine, theirs = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    fcntl.flock(mine, EX)
    os.rename(path, spot / "renamed")
    spot.gives(BUSY, fcntl.flock, theirs, EX | NB)
    os.unlink(spot / "renamed")
    spot.gives(BUSY, fcntl.flock, theirs, EX | NB)
    new = os.open(spot.file("file"), os.O_RDWR)
    spot.gives(0, fcntl.flock, new, EX | NB)
    for descriptor in (mine, theirs, new):
        os.close(descriptor)


def _counted(path: str, times: int) -> None:
    """Add to a number in a file, under a lock."""
    descriptor = os.open(path, os.O_RDWR)
    for _ in range(times):
        fcntl.lockf(descriptor, EX)
        number = int(os.pread(descriptor, 20, 0))
        os.pwrite(descriptor, b"%d" % (number + 1), 0)
        fcntl.lockf(descriptor, UN)
    os.close(descriptor)


def test_a_counter_under_locks_loses_nothing(spot: Spot) -> None:
    path = spot.file("counter", b"0")
    rivals = [spot.process() for _ in range(4)]
    for rival in rivals:
        rival.start(_counted, path, 50)
    for rival in rivals:
        rival.finish()
        rival.close()
    spot.same(path.read_bytes(), b"200")

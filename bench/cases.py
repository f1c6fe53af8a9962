"""The cases every file system here is measured on: same work, same numbers, any directory.

Owns what is timed and how: streams and random access through fio, small files and an untarred
source tree through the system calls a program would use. Refuses to know which file system it runs
on, how it was mounted, and what becomes of the numbers.

Invariants:
- a case is timed alone; making ready (syncing, dropping the kernel's caches) is outside the time;
- a number is what a user waits for: MiB/s for streams, operations a second for the rest, so more
  is always better;
- cases of one group share files and caches and run in order on one directory; groups depend on
  nothing of each other, so that a run may take several file systems in turn within minutes.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SMALL_FILE_BYTES = 4096
SMALL_FILE_DIRECTORIES = 10
RANDOM_IO = "24M"
SYNCED_WRITE_SIZE = "2M"
MIXED_JOB_SIZE = "32M"
MIXED_JOB_IO = "4M"
MIXED_JOBS = 8
CASE_DEADLINE_S = 900.0

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


class CaseFailed(Exception):
    """A case could not be measured; the message says why. The next case may still run."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work a case does; figures compare only between runs of one scale."""

    file_mib: int = 512
    small_files: int = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """A scratch directory on the file system under test, and what the cases need to work there.

    `chill` is called before a cold case, after the kernel's caches are dropped: a remount, perhaps.
    `keeps_bytes` is false for a file system that stores no data: its contents are not compared.
    """

    directory: Path
    archive: Path
    scale: Scale
    chill: Callable[[], None]
    keeps_bytes: bool = True

    @property
    def tree(self) -> Path:
        return self.directory / "small"

    @property
    def untarred(self) -> Path:
        return self.directory / "untarred"


@dataclass(frozen=True, slots=True)
class Case:
    """One number: its key in results, its row in tables, its unit, and the work that yields it."""

    name: str
    title: str
    unit: str
    run: Callable[[Place], float]
    cold: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that share files and caches, in the order they must run."""

    name: str
    cases: tuple[Case, ...]


def make_archive(path: Path) -> None:
    """Tar up the Python standard library's sources: the real tree that the untar case unpacks."""
    library = sysconfig.get_path("stdlib")
    excluded = ("site-packages", "dist-packages", "__pycache__", "test")
    flags = [f"--exclude={name}" for name in excluded]
    subprocess.run(["tar", "-cf", path, *flags, "-C", library, "."], check=True)


def drop_caches(place: Place) -> None:
    """Make the next read cold: write out everything, drop clean pages and entries, then chill."""
    os.sync()
    DROP_CACHES.write_text("3")
    place.chill()


def _fio(place: Place, name: str, **options: str | int) -> dict[str, dict[str, float]]:
    """Run one fio job (or group of equal jobs) and return its section of fio's report."""
    command = ["fio", f"--directory={place.directory}", f"--name={name}"]
    command += ["--output-format=json", "--group_reporting"]
    command += [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CASE_DEADLINE_S)
    if done.returncode:
        raise CaseFailed((done.stderr or done.stdout).strip()[-200:])
    job: dict[str, dict[str, float]] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return job


def _stream_file(place: Place) -> dict[str, str | int]:
    return {"size": f"{place.scale.file_mib}M"}


def _mib_per_s(section: dict[str, float]) -> float:
    return section["bw_bytes"] / 2**20


def sequential_write(place: Place) -> float:
    """Write a new file in 1 MiB requests and fsync it; the fsync counts."""
    job = _fio(place, "seq", rw="write", bs="1M", end_fsync=1, **_stream_file(place))
    return _mib_per_s(job["write"])


def sequential_read(place: Place) -> float:
    """Read that file from its beginning in 1 MiB requests."""
    return _mib_per_s(_fio(place, "seq", rw="read", bs="1M", **_stream_file(place))["read"])


def random_read(place: Place) -> float:
    """Read 4 KiB at random offsets of that file, one request at a time."""
    job = _fio(
        place, "seq", rw="randread", bs="4k", io_size=RANDOM_IO, randseed=7, **_stream_file(place)
    )
    return job["read"]["iops"]


def random_write(place: Place) -> float:
    """Overwrite 4 KiB at random offsets of that file, then fsync it; the fsync counts."""
    options = {"io_size": RANDOM_IO, "end_fsync": 1, "randseed": 9, **_stream_file(place)}
    return _fio(place, "seq", rw="randwrite", bs="4k", **options)["write"]["iops"]


def synced_write(place: Place) -> float:
    """Append 4 KiB and fsync, again and again: a database's commit."""
    job = _fio(place, "syn", rw="write", bs="4k", size=SYNCED_WRITE_SIZE, fsync=1)
    return job["write"]["iops"]


def mixed(place: Place) -> float:
    """Eight jobs read and write 4 KiB at random, each in its own file; reads a second."""
    job = _fio(
        place,
        "mix",
        rw="randrw",
        bs="4k",
        size=MIXED_JOB_SIZE,
        io_size=MIXED_JOB_IO,
        numjobs=MIXED_JOBS,
        end_fsync=1,
    )
    return job["read"]["iops"]


def _small_files(place: Place) -> Iterator[str]:
    """Walk the tree of small files as find does: the listing is part of what a case times."""
    for parent, _, names in os.walk(place.tree):
        for name in names:
            yield os.path.join(parent, name)


def _rate(place: Place, count: int, began: float) -> float:
    elapsed_s = time.monotonic() - began
    if count != place.scale.small_files:
        raise CaseFailed(f"{count} files where {place.scale.small_files} were expected")
    return count / elapsed_s


def create_small(place: Place) -> float:
    """Create, write and close small files in ten directories; fsync their parent at the end."""
    blob = os.urandom(SMALL_FILE_BYTES)
    began = time.monotonic()
    os.mkdir(place.tree)
    for number in range(place.scale.small_files):
        parent = place.tree / f"d{number % SMALL_FILE_DIRECTORIES}"
        if number < SMALL_FILE_DIRECTORIES:
            os.mkdir(parent)
        with open(parent / f"f{number}", "wb") as file:
            file.write(blob)
    top = os.open(place.tree, os.O_RDONLY)
    os.fsync(top)
    os.close(top)
    return _rate(place, place.scale.small_files, began)


def stat_small(place: Place) -> float:
    """List the tree and lstat every file."""
    began = time.monotonic()
    count = 0
    for path in _small_files(place):
        os.lstat(path)
        count += 1
    return _rate(place, count, began)


def read_small(place: Place) -> float:
    """Open and read every file whole."""
    began = time.monotonic()
    count = 0
    for path in _small_files(place):
        with open(path, "rb") as file:
            if len(file.read()) != SMALL_FILE_BYTES:
                raise CaseFailed(f"short read of {path}")
        count += 1
    return _rate(place, count, began)


def rename_small(place: Place) -> float:
    """Rename every file within its directory."""
    began = time.monotonic()
    count = 0
    for path in _small_files(place):
        os.rename(path, f"{path}.r")
        count += 1
    return _rate(place, count, began)


def delete_small(place: Place) -> float:
    """Remove the whole tree."""
    began = time.monotonic()
    shutil.rmtree(place.tree)
    return place.scale.small_files / (time.monotonic() - began)


def untar(place: Place) -> float:
    """Unpack the source tree and sync its file system; files a second. Then compare contents."""
    place.untarred.mkdir()
    with tarfile.open(place.archive) as archive:
        files = sum(1 for member in archive if not member.isdir())
    began = time.monotonic()
    subprocess.run(["tar", "-xf", place.archive, "-C", place.untarred], check=True)
    subprocess.run(["sync", "-f", place.untarred], check=True)
    elapsed_s = time.monotonic() - began
    if place.keeps_bytes:
        compared = subprocess.run(
            ["tar", "-df", place.archive, "-C", place.untarred], capture_output=True, text=True
        )
        if compared.returncode:
            raise CaseFailed(f"contents differ: {compared.stdout[-200:]}")
    return files / elapsed_s


GROUPS = (
    Group(
        "stream",
        (
            Case("seq_write", "sequential write 1 MiB + fsync", "MiB/s", sequential_write),
            Case("seq_read_cold", "sequential read 1 MiB, cold", "MiB/s", sequential_read, True),
            Case("rand_read_4k_cold", "random read 4 KiB, cold", "/s", random_read, True),
            Case("rand_write_4k", "random write 4 KiB + fsync at end", "/s", random_write),
        ),
    ),
    Group("sync", (Case("sync_write_4k", "write 4 KiB, fsync each", "/s", synced_write),)),
    Group("mixed", (Case("rand_rw_4k_8jobs", "mixed 4 KiB, 8 jobs", "reads/s", mixed),)),
    Group(
        "small",
        (
            Case("small_create", "create+write+close 4 KiB", "/s", create_small),
            Case("small_stat_cold", "list and stat, cold", "/s", stat_small, True),
            Case("small_read_cold", "open+read 4 KiB, cold", "/s", read_small, True),
            Case("small_rename", "rename", "/s", rename_small),
            Case("small_delete", "delete", "/s", delete_small),
        ),
    ),
    Group("untar", (Case("untar", "untar + sync", "files/s", untar),)),
)

CASES = {case.name: case for group in GROUPS for case in group.cases}


def note(text: str) -> None:
    """Tell whoever watches how far the run is; results go to stdout and files only."""
    print(text, file=sys.stderr, flush=True)

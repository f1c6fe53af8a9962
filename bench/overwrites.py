"""Random 4 KiB overwrites of a large file on a volume of its own, and what nodes write for them.

What the two questions about them share: a fresh demo volume (4+2 on six local nodes), the file, its
overwrites, and the counters of the kernel.  `write_bytes` of /proc/PID/io is everything that a node
had written to disk: storage file, journal, index and its log.
"""

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.peers.peer import Running
from bench.peers.processes import command, cpu_s, pids_naming
from bench.peers.rain import DATA, PARITY, RainFS

PAGE_BYTES = 4096
CHUNK_BYTES = 1 << 20
OVERHEAD = (DATA + PARITY) / DATA
"""What the code itself writes for each byte of a file."""


@contextmanager
def volume(options: str, base: Path | None) -> Iterator[tuple[Running, Path]]:
    """Mount a fresh volume; yields it and the directory that its processes name."""
    with ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="rainfs-bench-", dir=base))
        yield RainFS(options).start(Path(made), stack), Path(made)


def make_file(path: Path, size_mib: int) -> None:
    """Write the file in one go, durably."""
    generator = random.Random(1)
    with path.open("wb", buffering=0) as file:
        for _ in range(size_mib):
            file.write(generator.randbytes(CHUNK_BYTES))
        os.fsync(file.fileno())


def overwrite(path: Path, count: int, generator: random.Random, *, fsync_each: bool) -> float:
    """Overwrite `count` random pages, durable at the end; returns the seconds that took."""
    data = generator.randbytes(PAGE_BYTES * 64)
    descriptor = os.open(path, os.O_WRONLY)
    try:
        pages = os.fstat(descriptor).st_size // PAGE_BYTES
        begun = time.perf_counter()
        for _ in range(count):
            piece = generator.randrange(64) * PAGE_BYTES
            at = generator.randrange(pages) * PAGE_BYTES
            os.pwrite(descriptor, data[piece : piece + PAGE_BYTES], at)
            if fsync_each:
                os.fdatasync(descriptor)
        os.fsync(descriptor)
        return time.perf_counter() - begun
    finally:
        os.close(descriptor)


def node_pids(base: Path) -> list[int]:
    """Return the node daemons of the volume below `base`."""
    found = []
    for pid in pids_naming(base):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"node" in words and b"serve" in words:
                found.append(pid)
    return found


def written_bytes(base: Path) -> int:
    """Return what all nodes together have had written to disk so far."""
    total = 0
    for pid in node_pids(base):
        fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        total += int(fields["write_bytes"])
    return total


def processor_s(base: Path) -> float:
    """Return the processor time that the volume's processes have used so far."""
    return cpu_s(pids_naming(base))


def gc(mountpoint: Path) -> str:
    """Have everything compacted that is worth it; returns what was done."""
    return command([sys.executable, "-m", "rainfs.cli.main", "gc", mountpoint]).splitlines()[0]


def read_cold(running: Running, path: Path) -> float:
    """Remount, drop the kernel's caches, read the file in order; returns MiB/s."""
    running.remount()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    begun = time.perf_counter()
    total = 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK_BYTES):
            total += len(data)
    return total / CHUNK_BYTES / (time.perf_counter() - begun)

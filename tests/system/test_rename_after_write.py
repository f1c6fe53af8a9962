"""The editor's and the package manager's way to save: write beside, rename over.

The mount is killed at random moments; afterwards each file holds one whole version that was saved,
never nothing, never parts of two.  With fsync of file and directory it is at least the last one
whose save had returned.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

from tests.system.harness import Cluster, cluster_in, sync_directory, write_durably

KILLS = {False: 3, True: 40}
FILES = 6
MAX_BYTES = 300_000
CUT_AFTER_S = (0.3, 2.5)

_SAVER = """
import hashlib, os, random, sys
root, log, seed, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
generator = random.Random(seed)
log = open(log, "a", buffering=1)
directory = os.open(root, os.O_RDONLY)

def version(number):
    length = 64 + number * 7919 % int(sys.argv[5])
    block = hashlib.blake2b(str(number).encode()).digest()
    return (f"{number:016d}".encode() + block * (length // 64 + 1))[:length]

number = first
while True:
    number += 1
    file = generator.randrange(int(sys.argv[6]))
    synced = file % 2 == 0
    with open(f"{root}/.{file}.tmp", "wb", buffering=generator.choice([0, 8192])) as out:
        data = version(number)
        out.write(data[:len(data) // 2])
        out.write(data[len(data) // 2:])
        out.flush()
        if synced:
            os.fsync(out.fileno())
    os.rename(f"{root}/.{file}.tmp", f"{root}/{file}")
    if synced:
        os.fsync(directory)
    log.write(f"{file} {number}\\n")
"""


def version(number: int) -> bytes:
    """Return what the saver writes as that version."""
    length = 64 + number * 7919 % MAX_BYTES
    block = blake2b(str(number).encode()).digest()
    return (f"{number:016d}".encode() + block * (length // 64 + 1))[:length]


def check(root: Path, log: Path, newest: dict[int, int]) -> int:
    """Every file is one whole version, and none that was promised is lost; return the newest."""
    for line in log.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            file, number = map(int, line.split())
            newest[file] = max(newest.get(file, 0), number)
    last = max(newest.values(), default=0)
    for file in newest:
        found = (root / str(file)).read_bytes()
        assert found, f"{file} is empty"
        number = int(found[:16])
        assert found == version(number), f"{file}: {len(found)} bytes mixed with version {number}"
        if file % 2 == 0:
            assert number >= newest[file], f"{file}: {number} instead of {newest[file]}"
        newest[file] = number
        last = max(last, number)
    return last


def test_a_save_by_rename_leaves_the_old_or_the_new_bytes(tmp_path: Path, long_form: bool) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    log = tmp_path / "saved"
    with cluster_in(tmp_path, nodes=3, code=("--data", 2, "--parity", 1)) as cluster:
        cluster.mount()
        root = cluster.mountpoint / "data"
        root.mkdir()
        sync_directory(cluster.mountpoint)
        # There are old bytes to keep: a first save has none, and may leave an empty file.
        newest = dict(enumerate(range(FILES)))
        for file, number in newest.items():
            write_durably(root / str(file), version(number))
        last = FILES
        for round_number in range(KILLS[long_form]):
            log.write_text("")
            last = save_and_kill(cluster, root, log, generator, round_number, last, newest)
        assert max(newest.values()) > FILES
        cluster.remount()
        check(root, log, newest)


def save_and_kill(
    cluster: Cluster,
    root: Path,
    log: Path,
    generator: random.Random,
    round_number: int,
    last: int,
    newest: dict[int, int],
) -> int:
    """Save files until the mount is killed, mount again, check; return the newest version."""
    arguments = [root, log, round_number, last, MAX_BYTES, FILES]
    saver = subprocess.Popen(
        [sys.executable, "-c", _SAVER, *map(str, arguments)], stderr=subprocess.DEVNULL
    )
    time.sleep(generator.uniform(*CUT_AFTER_S))
    cluster.kill_mount()
    assert saver.wait(timeout=60) not in (0, -signal.SIGKILL)
    cluster.mount()
    # Versions that were saved but not logged come after those that were.
    return check(root, log, newest) + FILES

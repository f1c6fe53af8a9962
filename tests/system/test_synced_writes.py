"""A program that syncs each write, as databases do, while nodes and the mount are killed."""

from __future__ import annotations

import os
import random

from tests.system.harness import Cluster, drop_caches

FILE_BYTES = 64 * 1024
WRITES = {False: 120, True: 3_000}
"""Between two events."""


def test_each_synced_write_is_kept_while_nodes_and_the_mount_die(
    cluster: Cluster, long_form: bool
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    shadow = bytearray(FILE_BYTES)
    path = cluster.mountpoint / "table"

    def work(writes_a_sync: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            for _ in range(WRITES[long_form] // writes_a_sync):
                for _ in range(writes_a_sync):
                    data = generator.randbytes(generator.choice([1, 512, 4096, 9000]))
                    offset = generator.randrange(FILE_BYTES - len(data))
                    assert os.pwrite(descriptor, data, offset) == len(data)
                    shadow[offset : offset + len(data)] = data
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    cluster.mount()
    path.write_bytes(shadow)
    work(1)
    first, second = generator.sample(cluster.nodes, 2)
    first.kill()
    work(1)
    second.freeze()
    work(2)
    second.thaw()
    cluster.kill_mount()
    cluster.mount()
    assert path.read_bytes() == shadow
    first.start()
    first.wait_ready()
    cluster.wait_all_up()
    work(3)
    work(1)
    cluster.kill_mount()
    cluster.mount()
    drop_caches()
    assert path.read_bytes() == shadow
    for node in generator.sample(cluster.nodes, 2):
        node.kill()
    cluster.remount("cache_mib=8")
    assert path.read_bytes() == shadow

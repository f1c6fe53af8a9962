"""Bytes that write() took and the array cannot: fsync and close say so, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import Cluster, cluster_in, wait_until

MIB = 1 << 20
DEADLINE_S = 3
FLUSH_TIMEOUT_S = 60.0
CODE = ("--data", 2, "--parity", 1)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three small nodes."""
    root = tmp_path_factory.mktemp("errors")
    with cluster_in(root, nodes=3, capacity="64M", code=CODE) as made:
        yield made


@contextlib.contextmanager
def mounted(volume: Cluster, *options: str) -> Iterator[Path]:
    volume.mount(f"timeout={DEADLINE_S}", *options)
    try:
        yield volume.mountpoint
    finally:
        volume.start()
        volume.umount()


def closing_says(descriptor: int) -> int:
    """Close; return the error number, 0 for none."""
    try:
        os.close(descriptor)
    except OSError as error:
        return error.errno or 0
    return 0


def duplicate_closing_says(descriptor: int) -> int:
    """Close a duplicate, which asks for errors and leaves the file open."""
    return closing_says(os.dup(descriptor))


@pytest.mark.parametrize("option", ["noatime", "writeback"])
def test_lost_nodes_are_told_once_to_each_descriptor_by_close_and_always_by_fsync(
    volume: Cluster, option: str
) -> None:
    content = os.urandom(MIB)
    with mounted(volume, option) as root:
        path = root / f"file-{option}"
        writer = os.open(path, os.O_RDWR | os.O_CREAT)
        other = os.open(path, os.O_RDWR)
        for node in volume.nodes:
            node.kill()
        assert os.write(writer, content) == len(content)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output") as raised:
                os.fsync(writer)
            assert raised.value.errno == errno.EIO
        wait_until(
            lambda: duplicate_closing_says(other) == errno.EIO,
            "close tells the other descriptor",
            timeout_s=FLUSH_TIMEOUT_S,
        )
        assert os.pread(writer, len(content), 0) == content
        volume.start()

        def syncs() -> bool:
            with contextlib.suppress(OSError):
                os.fsync(writer)
                return True
            return False

        wait_until(syncs, "fsync succeeds again", timeout_s=FLUSH_TIMEOUT_S)
        assert closing_says(writer) == 0
        assert path.read_bytes() == content
        closing_says(other)
    with mounted(volume) as root:
        assert (root / f"file-{option}").read_bytes() == content


def test_a_full_array_is_told_by_fsync_or_close_when_the_kernel_defers_writes(
    volume: Cluster,
) -> None:
    """With `writeback` write() may only fill the page cache; who syncs or closes is told."""
    block = os.urandom(MIB)
    with mounted(volume, "writeback") as root:
        usable = volume.status()["capacity"]["usable_bytes"]
        descriptor = os.open(root / "fill", os.O_RDWR | os.O_CREAT)
        said: list[int] = []
        for number in range(2 * usable // MIB):
            try:
                os.pwrite(descriptor, block, number * MIB)
            except OSError as error:
                said.append(error.errno or 0)
                break
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
            said.append(0)
        if 0 not in said:
            said.append(errno.ENOSPC)
        said.append(closing_says(descriptor))
        assert errno.ENOSPC in said, said
        assert set(said) <= {0, errno.ENOSPC}, said
        (root / "fill").unlink()

        def fits() -> bool:
            with contextlib.suppress(OSError):
                with (root / "after").open("wb") as file:
                    file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
                return True
            return False

        wait_until(fits, "there is room again", timeout_s=FLUSH_TIMEOUT_S)
    with mounted(volume) as root:
        assert (root / "after").read_bytes() == block

"""An array of storage nodes on this machine: what `rainfs demo` starts, stops and purges.

Owns the directory of a demo: `node-1` ... `node-N`, `rain.db`, and `demo.json` with what must be
the same the next time (geometry, ports).  Whether a node runs is what the lock on its storage file
says; `node.pid` only says whom to signal.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from rainfs.cli.access import opened_volume
from rainfs.cli.daemon import StartFailed, start_in_background
from rainfs.cli.format import FormatRequest, choose_code, make_volume
from rainfs.cli.ports import HOST, free_ports, port_is_free
from rainfs.cli.serve import PID_FILE_NAME
from rainfs.cli.volume_url import url_of
from rainfs.errors import AlreadyFormatted, InputError
from rainfs.meta.nodes import change_node, list_nodes
from rainfs.model import Compression
from rainfs.store.opening import STORAGE_NAME

DEFAULT_NODES = 6
DEFAULT_DATA = 4
DEFAULT_PARITY = 2
LARGEST_DEFAULT_CAPACITY_BYTES = 100 << 30
DEFAULT_SHARE_OF_DISK = 0.9

DATABASE_NAME = "rain.db"
VOLUME_NAME = "demo"
NODE_START_TIMEOUT_S = 60.0
NODE_STOP_TIMEOUT_S = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the user asked for; None leaves the choice, or what is there, as it is."""

    nodes: int | None = None
    data: int | None = None
    parity: int | None = None
    capacity_bytes: int | None = None


class Record(msgspec.Struct, frozen=True):
    """The content of `demo.json`."""

    mountpoint: str
    data: int
    parity: int
    capacity_bytes: int
    ports: tuple[int, ...]
    formatted: bool = False
    """Whether the volume was made to its end."""


class LocalArray:
    """The nodes and the metadata in one directory."""

    def __init__(self, directory: Path, record: Record) -> None:
        self.directory = directory
        self.record = record

    @property
    def meta_url(self) -> str:
        """URL of the volume's metadata."""
        return url_of(self.directory / DATABASE_NAME)

    @property
    def numbers(self) -> range:
        """The nodes: 1 to N."""
        return range(1, len(self.record.ports) + 1)

    def node_directory(self, number: int) -> Path:
        """Where node `number` keeps its storage."""
        return self.directory / f"node-{number}"

    def node_url(self, number: int) -> str:
        """The address of node `number`."""
        return f"rain://{HOST}:{self.record.ports[number - 1]}"

    def running(self, number: int) -> bool:
        """Whether some process holds the node's storage file."""
        return is_locked(self.node_directory(number) / STORAGE_NAME)

    def save(self) -> None:
        """Write `demo.json`, whole or not at all."""
        path = record_path(self.directory)
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(self.record)) + b"\n")
        new.replace(path)

    def start_nodes(self) -> list[int]:
        """Start every node that does not run, all at once; return which.  Raises: StartFailed."""
        idle = [number for number in self.numbers if not self.running(number)]
        moved = self._avoid_taken_ports(idle)
        with ThreadPoolExecutor(max_workers=len(self.record.ports)) as pool:
            for future in [pool.submit(self._start_node, number) for number in idle]:
                future.result()
        if moved and self.record.formatted:
            trio.run(self._record_moved)
        return idle

    def _start_node(self, number: int) -> None:
        directory = self.node_directory(number)
        arguments = ["node", "serve", str(directory)]
        arguments += ["--listen", f"{HOST}:{self.record.ports[number - 1]}"]
        arguments += ["--capacity", str(self.record.capacity_bytes)]
        arguments += ["--name", f"node-{number}", "--label", f"host=node-{number}"]
        try:
            start_in_background(
                arguments,
                log=self.directory / f"node-{number}.log",
                timeout_s=NODE_START_TIMEOUT_S,
            )
        except StartFailed as error:
            raise StartFailed(f"node-{number}: {error}") from error

    def _avoid_taken_ports(self, idle: list[int]) -> bool:
        """Give nodes whose port somebody else took meanwhile another one; say whether any."""
        taken = [number for number in idle if not port_is_free(self.record.ports[number - 1])]
        if taken:
            ports = list(self.record.ports)
            for number, port in zip(taken, free_ports(len(taken), ports), strict=True):
                ports[number - 1] = port
            self.record = msgspec.structs.replace(self.record, ports=tuple(ports))
            self.save()
        return bool(taken)

    async def _record_moved(self) -> None:
        """Tell the metadata the addresses of the nodes as they are now."""
        urls = {f"node-{number}": self.node_url(number) for number in self.numbers}
        async with opened_volume(self.meta_url) as (engine, _):
            for node in await list_nodes(engine):
                url = urls.get(node.name)
                if url is not None and url != node.url:
                    await change_node(engine, node.number, url=url)

    def make_volume(self) -> bool:
        """Format the volume over all nodes, unless it was; say whether.  Raises: RainError."""
        if self.record.formatted:
            return False
        request = FormatRequest(
            url=self.meta_url,
            name=VOLUME_NAME,
            code=choose_code(len(self.record.ports), self.record.data, self.record.parity, None),
            compression=Compression.LZ4,
            backend_urls=tuple(self.node_url(number) for number in self.numbers),
        )
        # An earlier run may have been interrupted after its last claim.
        with suppress(AlreadyFormatted):
            trio.run(make_volume, request)
        self.record = msgspec.structs.replace(self.record, formatted=True)
        self.save()
        return True

    def stop_nodes(self) -> list[int]:
        """Stop every node that runs, all at once; return which.  Raises: StartFailed."""
        running = [number for number in self.numbers if self.running(number)]
        watched: list[tuple[int, int]] = []
        for number in running:
            pidfd = self._pidfd_of(number)
            if pidfd is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                watched.append((number, pidfd))
        for _, pidfd in watched:
            wait_or_kill(pidfd, NODE_STOP_TIMEOUT_S)
            os.close(pidfd)
        left = [f"node-{number}" for number in running if self.running(number)]
        if left:
            raise StartFailed(f"{', '.join(left)}: held by a process that node.pid does not name")
        return running

    def _pidfd_of(self, number: int) -> int | None:
        """Return a pidfd of the process that serves the node, if `node.pid` names it truly."""
        directory = self.node_directory(number)
        try:
            pid = int((directory / PID_FILE_NAME).read_text())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        with suppress(OSError):
            if os.fsencode(directory) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pidfd
        os.close(pidfd)
        return None

    def purge(self) -> None:
        """Delete nodes, metadata and the directory itself if nothing else is in it."""
        for number in self.numbers:
            shutil.rmtree(self.node_directory(number), ignore_errors=True)
        for path in self._own_files():
            path.unlink()
        with suppress(OSError):
            self.directory.rmdir()

    def _own_files(self) -> Iterator[Path]:
        for pattern in ("rain.db*", "node-*.log", "demo.json*"):
            yield from self.directory.glob(pattern)


def record_path(directory: Path) -> Path:
    """Return the path of `demo.json`."""
    return directory / "demo.json"


def load_local_array(directory: Path) -> LocalArray | None:
    """Return the array in `directory`, None if there is none.  Raises: InputError if unreadable."""
    path = record_path(directory)
    try:
        return LocalArray(directory, msgspec.json.decode(path.read_bytes(), type=Record))
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: unreadable: {error}") from error


def local_array(directory: Path, mountpoint: str, shape: Shape) -> LocalArray:
    """Return the array in `directory`, made new if there is none.

    Raises: InputError when it is there with another shape or for another mount point.
    """
    array = load_local_array(directory)
    if array is not None:
        _insist(array, mountpoint, shape)
        return array
    nodes = shape.nodes or DEFAULT_NODES
    data = DEFAULT_DATA if shape.data is None else shape.data
    parity = DEFAULT_PARITY if shape.parity is None else shape.parity
    choose_code(nodes, data, parity, None)
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory}: not empty, and no demo of an earlier time")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    capacity = shape.capacity_bytes or _default_capacity(directory, nodes)
    record = Record(mountpoint, data, parity, capacity, tuple(free_ports(nodes)))
    array = LocalArray(directory, record)
    array.save()
    return array


def _insist(array: LocalArray, mountpoint: str, shape: Shape) -> None:
    record = array.record
    for what, wanted, present in (
        ("nodes", shape.nodes, len(record.ports)),
        ("data shards", shape.data, record.data),
        ("parity shards", shape.parity, record.parity),
        ("bytes a node", shape.capacity_bytes, record.capacity_bytes),
        ("as its mount point", mountpoint, record.mountpoint),
    ):
        if wanted is not None and wanted != present:
            raise InputError(
                f"{array.directory}: the demo there has {present} {what}, not {wanted}; "
                f"`rainfs demo --stop --purge {record.mountpoint}` removes it"
            )


def _default_capacity(directory: Path, nodes: int) -> int:
    """An equal share of what the disk has, so that `df` on the mount tells the truth."""
    share = int(shutil.disk_usage(directory).free * DEFAULT_SHARE_OF_DISK / nodes)
    return min(LARGEST_DEFAULT_CAPACITY_BYTES, share)


def is_locked(path: Path) -> bool:
    """Whether some process holds the exclusive lock of the file at `path`."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def wait_or_kill(pidfd: int, timeout_s: float) -> None:
    """Wait for the end of a process; kill it when it takes longer than `timeout_s`."""
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    if not ended.poll(timeout_s * 1000):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended.poll()

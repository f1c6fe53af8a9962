"""Real nodes, real mounts: what the system tests drive.

Every process that a `Cluster` starts is its own child or is found through the session lock of its
own metadata, and every one is gone after `close`, whatever happened.  Waiting is always for a
condition, with a deadline.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trio

from rainfs.cli.access import opened_backend
from rainfs.cli.ports import HOST, free_ports
from rainfs.errors import MetadataError
from rainfs.meta.nodes import list_nodes
from rainfs.meta.open import open_engine
from rainfs.meta.sessions import SessionRow, list_sessions
from rainfs.meta.stripes import scan_stripes
from rainfs.meta.volume import open_volume
from rainfs.model import ShardKey, StripeId
from rainfs.mount.mountpoint import mount_of, unmount

RAINFS = [sys.executable, "-m", "rainfs.cli.main"]
COMMAND_TIMEOUT_S = 120
WAIT_TIMEOUT_S = 30.0


def rainfs(
    *arguments: object, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run one command of ours to its end."""
    done = subprocess.run(
        [*RAINFS, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"rainfs {arguments}: exit {done.returncode}: {done.stderr}")
    return done


def run(*arguments: object, cwd: Path | None = None, timeout_s: float = 300) -> str:
    """Run another program to its end, which must be a good one; return what it said."""
    done = subprocess.run(
        [*map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Return once `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def drop_caches() -> None:
    """Make the kernel forget every clean page, name and inode."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


PORTS_GIVEN: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on and that no other node of these tests was given."""
    (port,) = free_ports(1, PORTS_GIVEN)
    PORTS_GIVEN.add(port)
    return port


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and fsync it."""
    with path.open("wb", buffering=0) as file:
        assert file.write(content) == len(content)
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """fsync a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class StorageNode:
    """One `rainfs node serve`."""

    def __init__(self, directory: Path, name: str, capacity: str) -> None:
        self.directory = directory
        self.name = name
        self.capacity = capacity
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"rain://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")

    def start(self) -> None:
        """Start the daemon; return without waiting (see `wait_ready`)."""
        assert self.process is None or self.process.poll() is not None
        arguments = ["node", "serve", str(self.directory), "--listen", f"{HOST}:{self.port}"]
        arguments += ["--capacity", self.capacity, "--name", self.name]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*RAINFS, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_ready(self, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Return once the daemon accepts connections."""

        def accepts() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()}"
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
                return True
            return False

        wait_until(accepts, f"{self.name} accepts connections", timeout_s)

    def kill(self) -> None:
        """End it as a power switch would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Cluster:
    """A volume over real nodes, with a mount point."""

    def __init__(self, root: Path, *, nodes: int = 6, capacity: str = "8G") -> None:
        self.root = root
        self.meta = root / "meta" / "rain.db"
        self.meta_url = f"sqlite://{self.meta}"
        self.mountpoint = root / "mnt"
        self.mountpoint.mkdir()
        self.meta.parent.mkdir()
        self.nodes = [
            StorageNode(root / f"node-{number}", f"node-{number}", capacity)
            for number in range(1, nodes + 1)
        ]

    def start(self) -> None:
        """Start every node that does not run."""
        for node in self.nodes:
            if node.process is None or node.process.poll() is not None:
                node.start()
        for node in self.nodes:
            node.wait_ready()

    def format(self, *options: object) -> None:
        rainfs("format", self.meta_url, "--name", "test", *options, *(n.url for n in self.nodes))

    def mount(self, *options: str) -> str:
        """Mount; return the remarks on stderr."""
        arguments = ["mount", self.meta_url, str(self.mountpoint)]
        if options:
            arguments += ["-o", ",".join(options)]
        return rainfs(*arguments).stderr

    def umount(self) -> None:
        rainfs("umount", self.mountpoint)

    def remount(self, *options: str) -> None:
        self.umount()
        self.mount(*options)

    def session(self) -> SessionRow | None:
        """Return the living session of the volume."""

        async def ask() -> list[SessionRow]:
            engine = open_engine(self.meta_url)
            try:
                return await list_sessions(engine)
            finally:
                await engine.aclose()

        if not self.meta.exists():
            return None
        return next((row for row in trio.run(ask) if row.alive), None)

    def mount_pid(self) -> int:
        session = self.session()
        assert session is not None
        return session.pid

    def kill_mount(self) -> None:
        """End the mount's process as a crash would; the dead mount point stays."""
        pid = self.mount_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.session() is None, "the mount's lock is free")

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(rainfs("status", self.meta_url, "--json").stdout)
        return answer

    def shards(self) -> int:
        """Return how many shards the nodes hold together."""
        return sum(node["shards"] for node in self.status()["nodes"])

    def unowned_shards(self) -> list[tuple[str, ShardKey]]:
        """Return what the nodes hold that no stripe of the metadata places there."""

        async def ask() -> list[tuple[str, ShardKey]]:
            engine = open_engine(self.meta_url)
            volume = await open_volume(engine)
            found: list[tuple[str, ShardKey]] = []
            owned: set[tuple[int, ShardKey]] = set()
            after = StripeId(0)
            while rows := await scan_stripes(engine, after, 500):
                after = rows[-1].id
                for row in rows:
                    for shard, number in enumerate(row.placement.nodes):
                        owned.add((number, ShardKey(row.id, shard)))
            for node in await list_nodes(engine):
                async with opened_backend(node.url, volume.id) as backend:
                    at: ShardKey | None = None
                    while page := await backend.list(at, 1000):
                        at = page[-1].key
                        keys = [info.key for info in page]
                        found += [(node.name, k) for k in keys if (node.number, k) not in owned]
            await engine.aclose()
            return found

        return trio.run(ask)

    @property
    def mounted(self) -> bool:
        return mount_of(self.mountpoint) is not None

    def wait_all_up(self) -> None:
        """Return once the mount has had time to see that every node answers again."""
        wait_until(
            lambda: all(node["state"] == "up" for node in self.status()["nodes"]), "all nodes up"
        )

    @property
    def mount_log(self) -> str:
        path = self.meta.with_name(self.meta.name + ".log")
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """Leave nothing behind: no mount, no process."""
        try:
            # A test may have left a database that nobody can open, with nothing mounted.
            with contextlib.suppress(MetadataError):
                session = self.session()
                if session is not None:
                    os.kill(session.pid, signal.SIGKILL)
            while mount_of(self.mountpoint) is not None:
                unmount(self.mountpoint, lazy=True)
        finally:
            for node in self.nodes:
                node.close()


@contextlib.contextmanager
def cluster_in(
    root: Path, *, nodes: int = 6, capacity: str = "8G", code: tuple[object, ...] = ()
) -> Iterator[Cluster]:
    """A formatted, unmounted volume over running nodes."""
    cluster = Cluster(root, nodes=nodes, capacity=capacity)
    try:
        cluster.start()
        cluster.format(*code)
        yield cluster
    finally:
        cluster.close()

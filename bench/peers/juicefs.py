"""JuiceFS: one copy in a local directory, metadata in SQLite or in Redis.

It has no redundancy and no network for data: a mark to reach, not an equal. Options are the
defaults, but for a cache of its own below the base directory.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.peers.peer import Running, lacking_commands
from bench.peers.processes import (
    answers,
    command,
    daemon,
    free_port,
    is_mounted,
    pids_naming,
    unmount,
    wait_until,
)

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class JuiceFS:
    engine: Literal["sqlite", "redis"]
    keeps_bytes: bool = True

    @property
    def name(self) -> str:
        return f"juicefs {self.engine}"

    def lacking(self) -> str | None:
        return lacking_commands("juicefs", *(["redis-server"] if self.engine == "redis" else []))

    def start(self, base: Path, stack: ExitStack) -> Running:
        mountpoint = base / "mnt"
        mountpoint.mkdir()
        own: list[int] = []
        if self.engine == "redis":
            url = self._start_redis(base, stack, own)
        else:
            url = f"sqlite3://{base / 'meta.db'}"
        bucket = f"{base / 'objects'}/"
        command(["juicefs", "format", "--storage", "file", "--bucket", bucket, url, "bench"])
        mount = ["juicefs", "mount", "--no-usage-report", "--no-syslog", "--backup-meta", "0"]
        mount += ["--background", "--log", f"{base / 'mount.log'}"]
        mount += ["--cache-dir", f"{base / 'cache'}", url, f"{mountpoint}"]
        stack.callback(unmount, mountpoint)

        def remount() -> None:
            unmount(mountpoint)
            command(mount)
            wait_until(lambda: is_mounted(mountpoint), "the mount")

        remount()
        return Running(mountpoint, remount, lambda: (*own, *pids_naming(base)))

    def _start_redis(self, base: Path, stack: ExitStack, own: list[int]) -> str:
        """Start a server whose log is synced every second, as JuiceFS advises; return its URL."""
        directory, port = base / "redis", free_port()
        directory.mkdir()
        arguments = ["redis-server", "--bind", LOOPBACK, "--port", str(port)]
        arguments += ["--dir", f"{directory}", "--appendonly", "yes", "--save", ""]
        own.append(daemon(stack, arguments, base / "redis.log").pid)
        wait_until(lambda: answers(LOOPBACK, port), "redis-server")
        return f"redis://{LOOPBACK}:{port}/1"

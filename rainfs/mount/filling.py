"""The mount's side of `filler`: starts it, gives it orders, ends it.

Owns the process and how many orders it may have.  Refuses to know why a part of a file is wanted.

Invariants:
- At most MAX_ORDERS orders are under way; one more is refused, not queued.
- A filler that ended, or that the kernel refuses, is used no more.
- Who has closed a file for whose sake the filler held something open finds nothing held: that close
  waits for it, and no other one does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import trio

from rainfs.mount.filler import DONE, ORDER

log = logging.getLogger(__name__)

MAX_ORDERS = 8
"""A region of 1 MiB each."""

REST_TIMEOUT_S = 0.1
"""A close waits no longer; orders for other readers may keep the filler busy."""

END_TIMEOUT_S = 2.0


class Filling:
    """The filler of one mount; it is started by the first order."""

    def __init__(self, mountpoint: Path, nursery: trio.Nursery) -> None:
        self._mountpoint = mountpoint
        self._nursery = nursery
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._under_way = 0
        self._usable = True
        self._starting = False
        self.held: set[int] = set()
        """Inodes that it may hold open."""
        self._turn = trio.Lock()
        self.pid: int | None = None
        """The process whose opens and reads fill the cache.  None while there is none: the kernel
        gives processes that it cannot name here the number 0."""

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = await trio.to_thread.run_sync(
                    _start_filler, self._mountpoint, theirs
                )
            except OSError as error:
                ours.close()
                self._give_up(str(error))
                return
        ours.setblocking(False)
        self._socket = ours
        self.pid = self._process.pid

    def order(self, inode: int, offset: int, length: int) -> bool:
        """Have the kernel read a part of a file; False if it cannot be had to now."""
        if not self._usable:
            return False
        if self._socket is None:
            if not self._starting:
                self._starting = True
                self._nursery.start_soon(self._start)
            return False
        try:
            self._take_answers(self._socket)
            if self._under_way >= MAX_ORDERS:
                return False
            self._socket.send(ORDER.pack(inode, offset, length))
        except OSError as error:
            self._give_up(str(error))
            return False
        self._under_way += 1
        self.held.add(inode)
        return True

    async def rest(self) -> None:
        """Return once the filler holds nothing open; at once if it does not anyway."""
        orders = self._socket
        if not self.held or orders is None:
            return
        with trio.move_on_after(REST_TIMEOUT_S):
            async with self._turn:
                if not self.held or not self._usable:
                    return
                held = self.held.copy()
                self.held.clear()
                try:
                    orders.send(ORDER.pack(0, 0, 0))
                    self._under_way += 1
                    while self._usable and self._under_way:
                        await trio.lowlevel.wait_readable(orders)
                        self._take_answers(orders)
                except trio.Cancelled:
                    self.held |= held
                    raise
                except OSError as error:
                    self._give_up(str(error))

    def _take_answers(self, orders: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._usable and self._under_way:
                answer = orders.recv(1)
                self._under_way -= 1
                if answer != DONE:
                    self._give_up("the kernel refuses" if answer else "it ended")

    def _give_up(self, reason: str) -> None:
        self._usable = False
        self.held.clear()
        log.warning("parts of files that are read at random stay with the mount: %s", reason)

    def close(self) -> None:
        """End it.  The mount is gone by now: nothing it may wait for takes long."""
        self._usable = False
        if self._socket is not None:
            self._socket.close()
        if self._process is None:
            return
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start_filler(mountpoint: Path, orders: socket.socket) -> subprocess.Popen[bytes]:
    device = os.stat(mountpoint).st_dev
    return subprocess.Popen(
        [sys.executable, "-m", "rainfs.mount.filler", str(mountpoint), str(device)],
        stdin=orders.fileno(),
        stdout=subprocess.DEVNULL,
    )

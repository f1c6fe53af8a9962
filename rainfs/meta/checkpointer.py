"""Moving the write-ahead log into the database, on a thread with a connection of its own.

The committing connection never checkpoints.  It tells this thread the length of the log; from
`WAKE_PAGES` on the thread makes passive checkpoints, which stop nobody, until little is left, and
then a restarting one, which holds writers back for the rest, so that the next commit begins the log
anew.  That bounds the log, and keeps it in pages that exist: writing and syncing fresh ones costs
about twice as much.  Writers meet the restart as a busy database and retry.

An I/O error here is reported once and ends checkpointing: what a failed sync lost must not be
declared durable by the next one.  A full disk is no such error: the log grows until there is room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import apsw

WAKE_PAGES = 8_000
"""32 MiB: long enough that a page which many commits change is moved once for all of them."""

FEW_PAGES = 400
PASSIVE_ROUNDS = 4
"""Passive checkpoints go on until at most FEW_PAGES are left, but not for more rounds than this."""

RESTART_WAIT_MS = 50
"""How long the restarting checkpoint holds writers back for the sake of a slow reader; then the log
grows by WAKE_PAGES before the next try."""


class Checkpointer:
    """The thread.  `connect` makes its connection, on that thread."""

    def __init__(
        self,
        connect: Callable[[], apsw.Connection],
        on_failure: Callable[[str], None],
        *,
        wake_pages: int = WAKE_PAGES,
    ) -> None:
        self._connect = connect
        self._on_failure = on_failure
        self._wake_pages = wake_pages
        self._threshold_pages = wake_pages
        self._pages = 0
        self._closing = False
        self.restarting = False
        """A restarting checkpoint waits for writers: they had better make way."""
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def log_has(self, pages: int) -> None:
        """Take note of the log's length after a commit."""
        self._pages = pages
        if pages >= self._threshold_pages and not self._wake.is_set():
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="rainfs-checkpoint", daemon=True
                )
                self._thread.start()
            self._wake.set()

    def close(self) -> None:
        """End the thread after the checkpoint under way; blocks.  Idempotent."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        try:
            connection = self._connect()
        except apsw.Error as error:
            self._on_failure(f"cannot open a connection for checkpoints: {error}")
            return
        try:
            while not self._closing:
                self._wake.wait()
                if self._closing:
                    return
                restarted = self._checkpoint(connection)
                self._threshold_pages = self._wake_pages + (0 if restarted else self._pages)
                self._wake.clear()
        except apsw.Error as error:
            self._on_failure(f"checkpoint of the metadata failed: {error}")
        finally:
            connection.close()

    def _checkpoint(self, connection: apsw.Connection) -> bool:
        """Returns whether the log starts anew: not while old pages are read, nor on a full disk."""
        try:
            for _ in range(PASSIVE_ROUNDS):
                _, moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                if self._pages - moved <= FEW_PAGES:
                    break
            self.restarting = True
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except (apsw.BusyError, apsw.FullError):
            return False
        finally:
            self.restarting = False
        return True

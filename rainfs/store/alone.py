"""The short way of one small shard that is new: journal it, sync, done.

Owns no rule of its own: it is what `Store.write` and `Ledger.commit` do for a shard that comes
alone, without the steps that only matter for many, for long ones and for those that are there
already.  Whatever is out of the ordinary it refuses before it has done anything, and the caller
goes the long way.

Invariants: those of the ledger; when `put` returns True, the shard is durable.
"""

from __future__ import annotations

from rainfs.checksum import crc32c_pages
from rainfs.errors import ShardCorrupt
from rainfs.memory import Buffer
from rainfs.model import KIB, MAX_ABOUT_BYTES, PAGE_BYTES, ShardKey
from rainfs.store.catalog import Catalog
from rainfs.store.journal import Entry, Journal, entry_bytes
from rainfs.store.ledger import Ledger
from rainfs.store.rows import CRC_BYTES, Row, pack_key, pack_row
from rainfs.store.space import Space

MAX_ALONE_BYTES = 64 * KIB


class LonePuts:
    """Puts of single small shards into an open store.  Thread-safe."""

    __slots__ = ("_catalog", "_journal", "_ledger", "_space")

    def __init__(self, ledger: Ledger, journal: Journal, catalog: Catalog, space: Space) -> None:
        self._ledger = ledger
        self._journal = journal
        self._catalog = catalog
        self._space = space

    def put(self, key: ShardKey, payload: Buffer, about: bytes) -> bool:
        """Store a new shard durably; False, with nothing done, where it takes the long way.

        Raises: NodeFull, NodeFailing.
        """
        length = len(payload)
        if length % PAGE_BYTES or not 0 < length <= MAX_ALONE_BYTES:
            return False
        ledger, journal = self._ledger, self._journal
        body_bytes = entry_bytes(len(about), length // PAGE_BYTES * CRC_BYTES, length)
        if len(about) > MAX_ABOUT_BYTES or body_bytes > journal.max_body_bytes:
            return False
        crcs = crc32c_pages(payload)
        with ledger.lock:
            if ledger.failing or not journal.fits(body_bytes, deleting=False):
                return False
            try:
                if ledger.owes_lap or self._catalog.get(key) is not None:
                    return False
            except ShardCorrupt:
                return False
            try:
                row = Row(self._space.allocate(length), length, crcs, about)
            except OSError as error:
                raise ledger.refused(error) from error
            packed = pack_row(pack_key(key), row)
            try:
                ledger.append_alone(Entry(key, row, bytes(payload), packed))
            except BaseException:
                self._space.give_up(row)
                raise
            ledger.sync_now()
        return True

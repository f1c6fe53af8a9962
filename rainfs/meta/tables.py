"""Walking a whole table in bounded steps.

Each page is a snapshot of its own; rows that change meanwhile may or may not be seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from rainfs.meta import keys
from rainfs.meta.engine import Engine, Reader

PAGE_KEYS = 1_000


async def scan_table(
    engine: Engine, letter: bytes, *, page_keys: int = PAGE_KEYS
) -> AsyncIterator[tuple[bytes, bytes]]:
    """Yield every row of the table, in key order; lets other tasks in between pages."""
    start, stop = keys.table(letter)
    while True:

        async def body(reader: Reader, start: bytes = start) -> list[tuple[bytes, bytes]]:
            return await reader.scan(start, stop, limit=page_keys)

        rows = await engine.read(body)
        for row in rows:
            yield row
        if len(rows) < page_keys:
            return
        start = rows[-1][0] + b"\0"
        await trio.lowlevel.checkpoint()

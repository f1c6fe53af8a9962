"""A store that is open elsewhere can still be looked at."""

from __future__ import annotations

import os
from pathlib import Path

from rainfs.cli.access import ask_node
from rainfs.cli.local_store import directory_of, peek
from rainfs.model import MIB, ShardKey, StripeId, VolumeId
from rainfs.store.store import Store


def test_only_file_urls_have_a_directory() -> None:
    assert directory_of("file:///srv/a%20b?capacity=1") == Path("/srv/a b")
    assert directory_of("rain://127.0.0.1:1") is None


async def test_a_store_in_use_is_described_by_its_superblock(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "n", capacity_bytes=64 * MIB, name="n1", labels={"host": "h"})
    try:
        store.claim(VolumeId(b"v" * 16))
        pending = store.write(ShardKey(StripeId(1), 0), [os.urandom(MIB)], b"")
        assert store.commit([pending], durable=True) == [None]
        seen = await ask_node(f"file://{tmp_path}/n", None)
        own = store.health()
    finally:
        store.close()
    assert seen == peek(tmp_path / "n")
    assert (seen.uuid, seen.name, seen.volume) == (own.uuid, "n1", own.volume)
    assert (seen.capacity_bytes, dict(seen.labels)) == (64 * MIB, {"host": "h"})
    assert abs(seen.used_bytes - own.used_bytes) < MIB


async def test_a_closed_store_answers_for_itself(tmp_path: Path) -> None:
    Store.open(tmp_path / "n", capacity_bytes=64 * MIB).close()
    assert (await ask_node(f"file://{tmp_path}/n", None)).volume is None

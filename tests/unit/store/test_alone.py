"""Shards that come alone take the short way, and end where the long way would have ended them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

import pytest

from rainfs.errors import NodeFailing, NodeFull
from rainfs.model import KIB, MAX_ABOUT_BYTES, MIB, PAGE_BYTES, ShardKey, StripeId
from rainfs.store.store import Store
from tests.simulation.disk import RecordingDisk
from tests.simulation.power import Kind


def key(stripe: int, shard: int = 0) -> ShardKey:
    return ShardKey(StripeId(stripe), shard)


def reopened(store_path: Path, into: Path) -> Store:
    """The store as it would be found after a kill."""
    shutil.copytree(store_path, into)
    return Store.open(into, capacity_bytes=64 * MIB)


def test_a_lone_put_is_durable_visible_and_described(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB)
    content = {key(n): os.urandom(PAGE_BYTES * (1 + n % 16)) for n in range(40)}
    for name, data in content.items():
        assert store.put_alone(name, data, b"about %d" % name.stripe)
    for checked in (store, reopened(tmp_path / "node", tmp_path / "copy")):
        for name, data in content.items():
            assert bytes(checked.read(name, 0, len(data)) or b"") == data
            assert checked.stat(name).about == b"about %d" % name.stripe
            assert checked.stat(name).durable
        health = checked.health()
        assert health.shards == len(content)
        assert health.used_bytes == sum(map(len, content.values()))
        checked.close()


def test_what_is_out_of_the_ordinary_is_left_to_the_long_way(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, journal_bytes=512 * KIB)
    page = os.urandom(PAGE_BYTES)
    assert store.put_alone(key(1), page, b"")
    refused = (
        (key(1), page, b""),  # It is there already.
        (key(1), bytes(PAGE_BYTES), b""),  # It is there with other bytes.
        (key(2), page[:-1], b""),
        (key(2), b"", b""),
        (key(2), bytes(68 * KIB), b""),
        (key(2), page, bytes(MAX_ABOUT_BYTES + 1)),
    )
    for name, data, about in refused:
        assert not store.put_alone(name, data, about)
    assert store.health().shards == 1
    assert store.health().used_bytes == PAGE_BYTES
    store.close()
    assert not store.put_alone(key(3), page, b"")


@pytest.mark.parametrize("seed", range(3))
def test_both_ways_mixed_over_many_laps_keep_every_shard(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    random = Random(seed)
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, journal_bytes=128 * KIB)
    content: dict[ShardKey, bytes] = {}
    short = 0
    for number in range(150):
        name, data = key(number), random.randbytes(PAGE_BYTES * random.randint(1, 4))
        if store.put_alone(name, data, b"a"):
            short += 1
        else:
            assert store.commit([store.write(name, [data], b"a")], durable=True) == [None]
        content[name] = data
        if random.random() < 0.2:
            victim = random.choice(list(content))
            store.delete([victim])
            del content[victim]
    assert short > 75, "most take the short way"
    after = reopened(tmp_path / "node", tmp_path / "copy")
    for checked in (store, after):
        assert {info.key for info in checked.list(None, 1000)} == set(content)
        for name, data in content.items():
            assert bytes(checked.read(name, 0, len(data)) or b"") == data
        assert checked.health().used_bytes == sum(map(len, content.values()))
        checked.close()


def test_a_full_store_refuses_and_loses_no_room(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "node", capacity_bytes=MIB)
    page = os.urandom(PAGE_BYTES)
    for number in range(256):
        assert store.put_alone(key(number), page, b"")
    with pytest.raises(NodeFull):
        store.put_alone(key(999), page, b"")
    store.delete([key(0)])
    assert store.put_alone(key(999), page, b"")
    store.close()


def test_a_failed_sync_condemns_the_disk_and_forgets_the_shard(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, disk=disk)
    assert store.put_alone(key(1), bytes(PAGE_BYTES), b"")
    disk.fail(Kind.SYNC)
    with pytest.raises(NodeFailing):
        store.put_alone(key(2), bytes(PAGE_BYTES), b"")
    assert [info.key for info in store.list(None, 10)] == [key(1)]
    assert store.health().failing
    assert not store.put_alone(key(3), bytes(PAGE_BYTES), b""), "the long way says why"
    with pytest.raises(NodeFailing):
        store.write(key(3), [bytes(PAGE_BYTES)], b"")


def test_a_refused_record_gives_its_space_back(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, disk=disk)
    used = store.health().used_bytes
    disk.fail(Kind.WRITE)
    with pytest.raises(NodeFailing):
        store.put_alone(key(1), bytes(PAGE_BYTES), b"")
    assert store.health().used_bytes == used

"""Opening a store: what it creates, what it refuses, what damage it notices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import apsw
import pytest

from rainfs.errors import (
    ForeignVolume,
    InputError,
    ShardCorrupt,
    ShardMissing,
    StoreDamaged,
    StoreInUse,
    StoreTooSmall,
)
from rainfs.model import KIB, MIB, PAGE_BYTES, ShardKey, StripeId, VolumeId
from rainfs.store import superblock
from rainfs.store.opening import INDEX_NAME, JOURNAL_OFFSET, NEW_STORAGE_NAME, STORAGE_NAME
from rainfs.store.store import Store

VOLUME = VolumeId(b"v" * 16)


def key(stripe: int, shard: int = 0) -> ShardKey:
    return ShardKey(StripeId(stripe), shard)


def put(store: Store, name: ShardKey, content: bytes) -> None:
    assert store.commit([store.write(name, [content], b"about")], durable=True) == [None]


def read(store: Store, name: ShardKey) -> bytes:
    data = store.read(name, 0, store.stat(name).length)
    assert data is not None
    return bytes(data)


def filled(directory: Path, count: int = 4) -> dict[ShardKey, bytes]:
    contents = {key(n + 1): os.urandom(PAGE_BYTES * (1 + 40 * (n % 2))) for n in range(count)}
    store = Store.open(directory, capacity_bytes=64 * MIB)
    for name, content in contents.items():
        put(store, name, content)
    store.close()
    return contents


def test_identity_name_labels_and_capacity_are_kept_and_changed_when_given(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=1 * MIB, name="n1", labels={"site": "a"})
    uuid = store.uuid
    store.claim(VOLUME)
    store.claim(VOLUME)
    store.close()
    for capacity, name, labels in ((None, None, None), (2 * MIB, "n2", {"site": "b"})):
        store = Store.open(directory, capacity_bytes=capacity, name=name, labels=labels)
        assert (store.uuid, store.volume) == (uuid, VOLUME)
        with pytest.raises(ForeignVolume):
            store.claim(VolumeId(b"w" * 16))
        store.close()
    health = (store := Store.open(directory, capacity_bytes=None)).health()
    assert (health.name, health.labels, health.capacity_bytes) == ("n2", {"site": "b"}, 2 * MIB)
    store.close()


def test_the_name_defaults_to_that_of_the_directory(store: Store) -> None:
    assert store.health().name == "node-1"
    assert store.volume is None


def test_everything_is_private(store: Store, directory: Path) -> None:
    put(store, key(1), bytes(PAGE_BYTES))
    assert directory.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in directory.iterdir()}
    assert {STORAGE_NAME, INDEX_NAME} <= names
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_a_directory_with_other_things_in_it_keeps_its_mode(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir(mode=0o755)
    (directory / "node.pid").write_text("1")
    Store.open(directory, capacity_bytes=1 * MIB).close()
    assert directory.stat().st_mode & 0o777 == 0o755


def test_a_first_opening_needs_a_capacity_worth_having(directory: Path) -> None:
    with pytest.raises(InputError, match="capacity"):
        Store.open(directory, capacity_bytes=None)
    with pytest.raises(StoreTooSmall):
        Store.open(directory, capacity_bytes=1 * KIB)
    assert not directory.exists()


def test_a_second_opening_is_refused_while_the_first_lives(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=1 * MIB)
    with pytest.raises(StoreInUse):
        Store.open(directory, capacity_bytes=None)
    program = (
        "import sys; from pathlib import Path; from rainfs.store.store import Store\n"
        "Store.open(Path(sys.argv[1]), capacity_bytes=None)"
    )
    command = [sys.executable, "-c", program, str(directory)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "StoreInUse" in refused.stderr
    store.close()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_lock_dies_with_a_killed_process(directory: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from rainfs.store.store import Store\n"
        "from rainfs.model import ShardKey\n"
        "store = Store.open(Path(sys.argv[1]), capacity_bytes=1 << 20)\n"
        "store.commit([store.write(ShardKey(1, 0), [b'k' * 4096], b'')], durable=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(directory)], check=False)
    assert killed.returncode == -9
    store = Store.open(directory, capacity_bytes=None)
    assert read(store, key(1)) == b"k" * PAGE_BYTES
    store.close()


def test_capacity_shrinks_to_what_is_used_and_no_further(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=64 * MIB)
    put(store, key(1), bytes(1 * MIB))
    store.close()
    with pytest.raises(StoreTooSmall):
        Store.open(directory, capacity_bytes=1 * MIB - 1)
    store = Store.open(directory, capacity_bytes=1 * MIB)
    health = store.health()
    assert (health.capacity_bytes, health.free_bytes) == (1 * MIB, 0)
    store.close()


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", bytes(1 * MIB), b"SQLite format 3\0" * 999]
)
def test_a_foreign_storage_file_is_refused_and_left_alone(directory: Path, content: bytes) -> None:
    directory.mkdir()
    path = directory / STORAGE_NAME
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match="not a rainfs storage file"):
        Store.open(directory, capacity_bytes=1 * MIB)
    assert path.read_bytes() == content


def test_unusable_directories_give_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nonesuch/x")):
        with pytest.raises(InputError, match="cannot use"):
            Store.open(directory, capacity_bytes=1 * MIB)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot use"):
        Store.open(tmp_path / "node", capacity_bytes=1 * MIB)


def test_an_index_without_its_storage_file_is_not_thrown_away(directory: Path) -> None:
    filled(directory)
    (directory / STORAGE_NAME).unlink()
    with pytest.raises(StoreDamaged, match="storage file is missing"):
        Store.open(directory, capacity_bytes=64 * MIB)


def test_a_storage_file_without_its_index_is_refused(directory: Path) -> None:
    filled(directory)
    (directory / INDEX_NAME).unlink()
    with pytest.raises(StoreDamaged, match="index is missing"):
        Store.open(directory, capacity_bytes=64 * MIB)


def test_the_index_of_another_store_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    filled(tmp_path / "b")
    (tmp_path / "b" / INDEX_NAME).write_bytes((tmp_path / "a" / INDEX_NAME).read_bytes())
    with pytest.raises(StoreDamaged, match="another storage file"):
        Store.open(tmp_path / "b", capacity_bytes=None)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 4096])
def test_an_unreadable_index_is_refused(directory: Path, content: bytes) -> None:
    filled(directory)
    (directory / INDEX_NAME).write_bytes(content)
    with pytest.raises(StoreDamaged):
        Store.open(directory, capacity_bytes=None)


def test_an_index_of_a_later_version_is_refused(directory: Path) -> None:
    filled(directory)
    with apsw.Connection(str(directory / INDEX_NAME)) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StoreDamaged, match="format 2"):
        Store.open(directory, capacity_bytes=None)


def test_a_storage_file_cut_short_is_refused(directory: Path) -> None:
    filled(directory)
    os.truncate(directory / STORAGE_NAME, 2 * PAGE_BYTES)
    with pytest.raises(StoreDamaged, match="shorter"):
        Store.open(directory, capacity_bytes=None)


def test_what_an_unfinished_creation_left_is_no_obstacle(directory: Path) -> None:
    directory.mkdir()
    (directory / NEW_STORAGE_NAME).write_bytes(b"half" * 4096)
    (directory / "index.db.new").write_bytes(b"half")
    (directory / "index.db.new-wal").write_bytes(b"half")
    store = Store.open(directory, capacity_bytes=1 * MIB)
    put(store, key(1), bytes(PAGE_BYTES))
    assert not (directory / NEW_STORAGE_NAME).exists()
    store.close()


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_flipped_superblock_is_survived_by_its_other_copy(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=64 * MIB)
    store.claim(VOLUME)
    put(store, key(1), b"x" * PAGE_BYTES)
    store.close()
    flip(directory / STORAGE_NAME, superblock.copy_for(1) * PAGE_BYTES + 40)
    store = Store.open(directory, capacity_bytes=None)
    assert store.volume == VOLUME
    assert read(store, key(1)) == b"x" * PAGE_BYTES
    store.close()
    flip(directory / STORAGE_NAME, superblock.copy_for(2) * PAGE_BYTES + 40)
    with pytest.raises(StoreDamaged, match="both copies"):
        Store.open(directory, capacity_bytes=None)


def test_a_flipped_bit_anywhere_in_a_shard_is_noticed_and_only_there(directory: Path) -> None:
    seed = 2
    print("seed", seed)
    random = Random(seed)
    contents = filled(directory)
    offset = JOURNAL_OFFSET + 8 * MIB
    total = sum(map(len, contents.values()))
    for _ in range(30):
        position = random.randrange(total)
        bit = random.randrange(8)
        flip(directory / STORAGE_NAME, offset + position, bit)
        store = Store.open(directory, capacity_bytes=None)
        corrupt = 0
        for name, content in contents.items():
            for start in range(0, len(content), PAGE_BYTES):
                try:
                    data = store.read(name, start, PAGE_BYTES)
                except ShardCorrupt:
                    corrupt += 1
                else:
                    assert data is not None
                    assert bytes(data) == content[start : start + PAGE_BYTES]
        assert corrupt == 1
        store.close()
        flip(directory / STORAGE_NAME, offset + position, bit)


def test_a_rotten_shard_is_healed_by_putting_it_again(directory: Path) -> None:
    contents = filled(directory)
    for position in range(0, sum(map(len, contents.values())), PAGE_BYTES):
        flip(directory / STORAGE_NAME, JOURNAL_OFFSET + 8 * MIB + position)
    store = Store.open(directory, capacity_bytes=None)
    for name, content in contents.items():
        with pytest.raises(ShardCorrupt):
            read(store, name)
        put(store, name, content)
        assert read(store, name) == content
    health = store.health()
    assert (health.shards, health.used_bytes) == (4, sum(map(len, contents.values())))
    store.close()


def rewrite_rows(directory: Path, statement: str) -> None:
    with apsw.Connection(str(directory / INDEX_NAME)) as database:
        database.execute(statement)
    database.close()


@pytest.mark.parametrize("position", [1, 5, 6, 14, 18, 22, 27])
def test_a_flipped_index_row_is_noticed_listed_and_can_be_replaced(
    directory: Path, position: int
) -> None:
    contents = filled(directory)
    rewrite_rows(
        directory,
        f"UPDATE shard SET row = CAST(substr(row, 1, {position - 1}) || x'5A' || "
        f"substr(row, {position + 1}) AS BLOB)",
    )
    store = Store.open(directory, capacity_bytes=None)
    assert [info.key for info in store.list(None, 10)] == sorted(contents)
    name, other, *_ = contents
    for call in (store.stat, lambda name: store.read(name, 0, 1)):
        with pytest.raises(ShardCorrupt):
            call(name)
    put(store, name, contents[name])
    assert read(store, name) == contents[name]
    store.delete([other])
    with pytest.raises(ShardMissing):
        store.stat(other)
    assert store.health().shards == 3
    store.close()


def test_swapped_index_rows_are_noticed(directory: Path) -> None:
    contents = filled(directory)
    with apsw.Connection(str(directory / INDEX_NAME)) as database:
        found = list(database.execute("SELECT key, row FROM shard ORDER BY key"))
        rows = [row for _, row in found]
        for (packed, _), row in zip(found, [*rows[1:], rows[0]], strict=True):
            database.execute("UPDATE shard SET row = ? WHERE key = ?", (row, packed))
    database.close()
    store = Store.open(directory, capacity_bytes=None)
    for name in contents:
        with pytest.raises(ShardCorrupt):
            read(store, name)
    store.close()


def test_swapped_shards_on_disk_are_noticed(directory: Path) -> None:
    contents = filled(directory)
    path = directory / STORAGE_NAME
    start = JOURNAL_OFFSET + 8 * MIB
    image = bytearray(path.read_bytes())
    first = image[start : start + PAGE_BYTES]
    image[start : start + PAGE_BYTES] = image[start + PAGE_BYTES : start + 2 * PAGE_BYTES]
    image[start + PAGE_BYTES : start + 2 * PAGE_BYTES] = first
    path.write_bytes(image)
    store = Store.open(directory, capacity_bytes=None)
    for name in list(contents)[:2]:
        with pytest.raises(ShardCorrupt):
            read(store, name)
    store.close()


def test_a_flipped_journal_record_loses_that_record_only(directory: Path) -> None:
    contents = {key(n): os.urandom(PAGE_BYTES) for n in range(5)}
    program = (
        "import os, sys; from pathlib import Path; from rainfs.store.store import Store\n"
        "from rainfs.model import ShardKey\n"
        "store = Store.open(Path(sys.argv[1]), capacity_bytes=1 << 20)\n"
        "for n, text in enumerate(sys.argv[2:]):\n"
        "    pending = store.write(ShardKey(n, 0), [bytes.fromhex(text)], b'')\n"
        "    store.commit([pending], durable=True)\n"
        "os._exit(0)"
    )
    texts = [content.hex() for content in contents.values()]
    subprocess.run([sys.executable, "-c", program, str(directory), *texts], check=True)
    # Each record is a header page's worth and the shard's: two pages.
    flip(directory / STORAGE_NAME, JOURNAL_OFFSET + 2 * 2 * PAGE_BYTES + 500)
    store = Store.open(directory, capacity_bytes=None)
    for name, content in contents.items():
        if name == key(2):
            with pytest.raises(ShardMissing):
                read(store, name)
        else:
            assert read(store, name) == content
    store.close()

"""A power cut at any operation, in any weather, loses no shard that was acknowledged durable."""

from __future__ import annotations

import contextlib
import errno
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from rainfs.errors import NodeFailing, NodeFull, ShardMissing, StorageError
from rainfs.model import KIB, MIB, PAGE_BYTES, ShardKey, StripeId
from rainfs.store.opening import STORAGE_NAME
from rainfs.store.store import Store
from tests.simulation.disk import RecordingDisk
from tests.simulation.power import (
    EVERYTHING,
    NOTHING,
    PREFIX,
    RANDOM,
    TORN,
    CrashState,
    Kind,
    sample,
)

JOURNAL_BYTES = 128 * KIB
CAPACITY_BYTES = 2 * MIB
NO_LABELS = -1
LONG_PAYLOAD_BYTES = 96 * KIB
"""Above what rides in the journal."""

POINTS = 16
LONG_POINTS = 70
SURVIVALS = (NOTHING, EVERYTHING, PREFIX, RANDOM, TORN)


@dataclass
class Truth:
    """What the store promised, and what it may hold besides."""

    durable: dict[ShardKey, bytes] = field(default_factory=dict)
    """Acknowledged and synced: must be there."""
    possible: dict[ShardKey, set[bytes]] = field(default_factory=dict)
    """Every content that was ever put under the key and may still be there."""

    def note(self, what: object) -> None:
        match what:
            case ("trying", dict() as contents):
                for key, content in contents.items():
                    self.possible.setdefault(key, set()).add(content)
            case ("stored", dict() as contents):
                self.durable.update(contents)
            case ("deleting", list() as keys):
                for key in keys:
                    self.durable.pop(key, None)
            case ("deleted", list() as keys):
                for key in keys:
                    self.durable.pop(key, None)
                    self.possible.pop(key, None)
            case _:
                raise AssertionError(what)


def content_of(random: Random, *, long: bool) -> bytes:
    if long:
        return random.randbytes(LONG_PAYLOAD_BYTES)
    return random.randbytes(PAGE_BYTES * random.randint(1, 3))


class Workload:
    """Random puts, deletes and syncs; every promise is marked in the disk's log."""

    def __init__(self, disk: RecordingDisk, random: Random) -> None:
        self.disk = disk
        self.random = random
        self.present: dict[ShardKey, bytes] = {}
        self.undurable: dict[ShardKey, bytes] = {}
        self.next_stripe = 1

    def run(self, store: Store, steps: int) -> None:
        for _ in range(steps):
            dice = self.random.random()
            if dice < 0.65:
                self.put(store, durable=self.random.random() < 0.6)
            elif dice < 0.72:
                self.put_again(store)
            elif dice < 0.93:
                self.delete(store)
            else:
                self.sync(store)

    def put(self, store: Store, *, durable: bool) -> None:
        batch: dict[ShardKey, bytes] = {}
        for _ in range(self.random.randint(1, 4)):
            key = ShardKey(StripeId(self.next_stripe), self.random.randint(0, 5))
            self.next_stripe += 1
            batch[key] = content_of(self.random, long=self.random.random() < 0.25)
        self.disk.mark(("trying", dict(batch)))
        try:
            if durable and len(batch) == 1 and store.put_alone(*batch.copy().popitem(), b"about"):
                results: list[StorageError | None] = [None]
            else:
                pending = [store.write(key, [content], b"about") for key, content in batch.items()]
                results = store.commit(pending, durable=durable)
        except NodeFull:
            return
        stored = {
            key: content
            for (key, content), result in zip(batch.items(), results, strict=True)
            if result is None
        }
        self.present.update(stored)
        if durable and stored:
            # The same sync covers what was committed before without one.
            self.disk.mark(("stored", {**stored, **self.undurable}))
            self.undurable.clear()
        else:
            self.undurable.update(stored)

    def put_again(self, store: Store) -> None:
        if self.present:
            key = self.random.choice(sorted(self.present))
            content = self.present[key]
            assert store.commit([store.write(key, [content], b"about")], durable=True) == [None]
            self.disk.mark(("stored", {key: content}))

    def delete(self, store: Store) -> None:
        if self.present:
            count = min(len(self.present), self.random.randint(1, 3))
            keys = self.random.sample(sorted(self.present), count)
            self.disk.mark(("deleting", keys))
            for key in keys:
                self.undurable.pop(key, None)
            store.delete(keys)
            self.disk.mark(("deleted", keys))
            for key in keys:
                del self.present[key]

    def sync(self, store: Store) -> None:
        store.sync()
        self.disk.mark(("stored", dict(self.undurable)))
        self.undurable.clear()


def read_whole(store: Store, key: ShardKey) -> bytes:
    data = store.read(key, 0, store.stat(key).length)
    assert data is not None
    return bytes(data)


def check(state: CrashState, directory: Path, truth: Truth) -> None:
    """Reopen what the power cut left, compare it with the truth, and use it."""
    state.write_to(directory)
    # Recorded as well: it spares the real disk's syncs, and can be crashed once more.
    disk = RecordingDisk(directory)
    try:
        check_store(state, disk, truth)
    finally:
        disk.close_vfs()
    shutil.rmtree(directory)


def check_store(state: CrashState, disk: RecordingDisk, truth: Truth) -> None:
    node = disk.root / "node"
    # Opening without a capacity only works on a store that exists.
    if "node/" + STORAGE_NAME not in state.files:
        assert not truth.durable
        open_store(disk).close()
        return
    store = Store.open(node, capacity_bytes=None, disk=disk)
    store.close()
    store = Store.open(node, capacity_bytes=2 * CAPACITY_BYTES, disk=disk)
    listed = store.list(None, 1 << 20)
    keys = [info.key for info in listed]
    assert keys == sorted(set(keys))
    assert set(truth.durable) <= set(keys)
    for info in listed:
        content = read_whole(store, info.key)
        assert content in truth.possible.get(info.key, set()), info.key
        if info.key in truth.durable:
            assert content == truth.durable[info.key]
    health = store.health()
    assert health.shards == len(listed)
    assert health.used_bytes == sum(info.length for info in listed)
    # New shards must not land on old ones.
    fresh = {ShardKey(StripeId(1 << 30 | n), 0): bytes([n]) * PAGE_BYTES * 2 for n in range(20)}
    pending = [store.write(key, [content], b"") for key, content in fresh.items()]
    assert store.commit(pending, durable=True) == [None] * len(fresh)
    for key, content in (truth.durable | fresh).items():
        assert read_whole(store, key) == content
    store.close()


def open_store(disk: RecordingDisk) -> Store:
    return Store.open(
        disk.root / "node",
        capacity_bytes=CAPACITY_BYTES,
        disk=disk,
        journal_bytes=JOURNAL_BYTES,
    )


def check_crashes(disk: RecordingDisk, tmp_path: Path, random: Random, points: int) -> int:
    states = 0
    for point in sample(disk.log.points(), points, random):
        truth = truth_at(disk, point)
        for survival in SURVIVALS:
            directory = tmp_path / f"crash-{point}-{survival.value}"
            try:
                check(disk.log.crash(point, survival, random), directory, truth)
            except Exception as error:
                raise AssertionError(f"crash point {point}, {survival}") from error
            states += 1
    return states


def truth_at(disk: RecordingDisk, point: int) -> Truth:
    truth = Truth()
    for what in disk.log.marks(point):
        truth.note(what)
    return truth


@pytest.mark.parametrize("seed", range(4))
def test_no_crash_loses_or_invents_a_shard(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    random = Random(seed)
    disk = RecordingDisk(tmp_path / "live")
    store = open_store(disk)
    workload = Workload(disk, random)
    workload.run(store, 40)
    store.close()
    store = open_store(disk)
    workload.run(store, 20)
    assert check_crashes(disk, tmp_path, random, POINTS) >= (POINTS - 1) * len(SURVIVALS)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 130))
def test_no_crash_loses_or_invents_a_shard_in_ten_thousand_states(
    tmp_path: Path, seed: int
) -> None:
    print("seed", seed)
    random = Random(seed)
    disk = RecordingDisk(tmp_path / "live")
    store = open_store(disk)
    workload = Workload(disk, random)
    for _ in range(3):
        workload.run(store, 30)
        store.close()
        store = open_store(disk)
    check_crashes(disk, tmp_path, random, LONG_POINTS)


@pytest.mark.parametrize("seed", range(2))
def test_a_second_crash_during_or_after_recovery_changes_nothing(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    random = Random(seed)
    disk = RecordingDisk(tmp_path / "live")
    store = open_store(disk)
    Workload(disk, random).run(store, 40)
    for number, point in enumerate(sample(disk.log.points()[30:], 6, random)):
        truth = truth_at(disk, point)
        directory = tmp_path / f"first-{number}"
        disk.log.crash(point, random.choice(SURVIVALS), random).write_to(directory)
        again = RecordingDisk(directory)
        store = open_store(again)
        # What a recovered store lists is durable from then on, and nothing else can come back.
        contents = {info.key: read_whole(store, info.key) for info in store.list(None, 1 << 20)}
        recovered = len(again.log.operations)
        workload = Workload(again, random)
        workload.next_stripe = 1 << 20
        workload.present = dict(contents)
        workload.run(store, 8)
        for second in sample(again.log.points(), 5, random):
            known = truth
            if second >= recovered:
                known = Truth(dict(contents), {key: {data} for key, data in contents.items()})
                for what in again.log.marks(second):
                    known.note(what)
            for survival in SURVIVALS:
                target = tmp_path / f"second-{number}-{second}-{survival.value}"
                check(again.log.crash(second, survival, random), target, known)


def test_records_of_an_earlier_life_are_never_replayed_again(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path / "first")
    store = open_store(disk)
    keys = [ShardKey(StripeId(n), 0) for n in range(6)]
    for key in keys:
        assert store.commit([store.write(key, [bytes(PAGE_BYTES)], b"")], durable=True) == [None]
    disk.log.crash(len(disk.log.operations), EVERYTHING, Random(0)).write_to(tmp_path / "second")
    disk = RecordingDisk(tmp_path / "second")
    store = open_store(disk)
    # This record is shorter than the one it overwrites; the others of that lap are still behind it.
    store.delete([keys[4]])
    disk.log.crash(len(disk.log.operations), NOTHING, Random(0)).write_to(tmp_path / "third")
    store = open_store(RecordingDisk(tmp_path / "third"))
    assert [info.key for info in store.list(None, 10)] == [*keys[:4], keys[5]]
    store.close()


def test_a_torn_rewrite_of_the_superblock_leaves_the_old_one_or_the_new(tmp_path: Path) -> None:
    random = Random(1)
    disk = RecordingDisk(tmp_path / "live")
    open_store(disk).close()
    start = len(disk.log.operations)
    for number in range(4):
        # Longer than a sector, so that a torn write mixes two of them.
        labels = {f"label-{n}": f"{number}" * 60 for n in range(20)}
        disk.mark(("begun", number))
        Store.open(disk.root / "node", capacity_bytes=None, labels=labels, disk=disk).close()
        disk.mark(("done", number))
    for point in range(start, len(disk.log.operations) + 1):
        marks = dict([("begun", NO_LABELS), ("done", NO_LABELS), *disk.log.marks(point)])  # type: ignore[list-item]
        for survival in (NOTHING, EVERYTHING, *[TORN] * 6):
            directory = tmp_path / "after"
            disk.log.crash(point, survival, random).write_to(directory)
            store = Store.open(directory / "node", capacity_bytes=None)
            found = {int(value[0]) for value in store.health().labels.values()} or {NO_LABELS}
            store.close()
            shutil.rmtree(directory)
            assert len(found) == 1
            assert found <= {marks["begun"], marks["done"]}


@pytest.mark.parametrize("seed", range(3))
def test_a_full_disk_at_any_operation_leaves_a_consistent_store(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    random = Random(seed)
    disk = RecordingDisk(tmp_path / "live")
    store = open_store(disk)
    workload = Workload(disk, random)
    workload.run(store, 5)
    for _ in range(25):
        fault = disk.fail(
            Kind.WRITE,
            code=errno.ENOSPC,
            skip=random.randint(0, 12),
            times=random.randint(1, 6),
            suffix=random.choice(("", STORAGE_NAME, "-wal")),
        )
        for _ in range(4):
            before = set(workload.present)
            with contextlib.suppress(NodeFull):
                workload.run(store, 1)
            # A deletion that failed half-way may have taken place.
            missing = {key for key in before & set(workload.present) if not is_there(store, key)}
            disk.mark(("deleted", sorted(missing)))
            for key in missing:
                del workload.present[key]
        disk.faults.remove(fault)
        health = store.health()
        listed = store.list(None, 1 << 20)
        assert not health.failing
        assert health.shards == len(listed)
        assert health.used_bytes == sum(info.length for info in listed)
        for key, content in workload.present.items():
            assert read_whole(store, key) == content
    check_crashes(disk, tmp_path, random, 12)


def is_there(store: Store, key: ShardKey) -> bool:
    try:
        store.stat(key)
    except ShardMissing:
        return False
    return True


@pytest.mark.parametrize("seed", range(4))
def test_a_sync_that_fails_is_never_believed(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    random = Random(seed)
    disk = RecordingDisk(tmp_path / "live")
    store = open_store(disk)
    workload = Workload(disk, random)
    workload.run(store, 10)
    # One failure only: whoever syncs again would be told that all is well.
    suffix = random.choice(("", STORAGE_NAME, "-wal"))
    disk.fail(Kind.SYNC, skip=random.randint(0, 8), times=1, suffix=suffix)
    for _ in range(200):
        if store.health().failing:
            break
        with contextlib.suppress(NodeFailing):
            workload.run(store, 1)
    assert store.health().failing
    with pytest.raises(NodeFailing):
        store.sync()
    with pytest.raises(NodeFailing):
        store.write(ShardKey(StripeId(1 << 40), 0), [bytes(PAGE_BYTES)], b"")
    truth = truth_at(disk, len(disk.log.operations))
    for key, content in truth.durable.items():
        assert read_whole(store, key) == content
    store.close()
    check_crashes(disk, tmp_path, random, 8)

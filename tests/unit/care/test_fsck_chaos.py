"""Whatever happens to rows of the metadata: fsck never crashes, and a repair brings it to rest."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, given, settings

from rainfs.care.fsck import Report, check, repair
from rainfs.errors import MetadataForeign, MetadataVersion
from rainfs.meta import keys
from rainfs.meta.checking_findings import LOST_KINDS, Kind
from rainfs.meta.sessions import Session
from rainfs.model import ROOT_INODE, InodeNumber
from tests.model.recount import recount
from tests.unit.care.fsck_world import FsckWorld, populated

SHORT_EXAMPLES = 60
LONG_EXAMPLES = 5_000

UNREPAIRABLE = LOST_KINDS | {Kind.PLACEMENT, Kind.SHARDS}
"""What may be left: data that is lost, stripes whose shards cannot be found."""

OWN_RECORDS = (keys.FORMAT, keys.VOLUME, keys.layout_key(1))  # type: ignore[arg-type]
"""Without these there is no volume to be checked."""

HOSTILE = (
    b"",
    b"\x00",
    b"\xc0",
    b"\xc1",
    b"\x90",
    b"\x9f" + b"\x00" * 15,
    b"\x93" + b"\xcf" + b"\xff" * 8 + b"\x00\x00",
    b"\xdd\xff\xff\xff\xff",
    b"\xff" * 40,
)

DAMAGE = st.tuples(
    st.sampled_from(["delete", "flip", "flip", "flip", "swap", "move", "hostile", "cut", "copy"]),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    st.integers(0, 255),
)


def damage(world: FsckWorld, kind: str, row: int, at: int, value: int) -> None:
    """Change one row of the map."""
    rows = world.rows
    if not rows:
        return
    names = list(rows)
    key = names[row % len(names)]
    raw = rows[key]
    if kind == "delete":
        del rows[key]
    elif kind == "flip" and raw:
        place = at % len(raw)
        rows[key] = raw[:place] + bytes([raw[place] ^ (value or 1)]) + raw[place + 1 :]
    elif kind == "swap":
        same = [other for other in names if other[:1] == key[:1]]
        other = same[at % len(same)]
        rows[key], rows[other] = rows[other], raw
    elif kind in ("move", "copy"):
        place = at % len(key)
        changed = key[:place] + bytes([key[place] ^ (value or 1)]) + key[place + 1 :]
        rows[changed] = raw
        if kind == "move":
            rows.pop(key, None)
    elif kind == "hostile":
        rows[key] = HOSTILE[at % len(HOSTILE)]
    elif kind == "cut":
        rows[key] = raw[: at % (len(raw) + 1)]


def kinds(report: Report) -> dict[str, int]:
    return {kind.value: count for kind, count in report.all_findings.counts.items()}


async def holds(damages: list[tuple[str, int, int, int]], *, with_nodes: bool) -> None:
    world = await populated()
    for one in damages:
        damage(world, *one)
    backends = world.backends() if with_nodes else None
    before = world.copy()
    try:
        await check(world.engine, backends)
    except (MetadataForeign, MetadataVersion):
        intact = await populated()
        assert any(world.rows.get(k) != intact.rows[k] for k in OWN_RECORDS)
        return
    assert world.copy() == before, "a check wrote something"
    done = await repair(world.engine, backends)
    left = set(done.after.all_findings.counts)
    assert left <= UNREPAIRABLE, done.after.findings
    again = await repair(world.engine, backends)
    assert kinds(again.before) == kinds(again.after) == kinds(done.after)
    await is_usable(world, again.after)


async def is_usable(world: FsckWorld, report: Report) -> None:
    """What a mount does first works, and an older check agrees."""
    session = await Session.begin(world.engine, read_only=False, mountpoint="")
    await session.end()
    await world.names(InodeNumber(ROOT_INODE))
    if report.clean:
        counted = await recount(world.engine)
        assert counted.sound, counted


@settings(max_examples=SHORT_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(DAMAGE, min_size=1, max_size=8), st.booleans())
def test_any_damage_comes_to_rest(
    damages: list[tuple[str, int, int, int]], with_nodes: bool
) -> None:
    trio.run(lambda: holds(damages, with_nodes=with_nodes))


@pytest.mark.long
@settings(max_examples=LONG_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(DAMAGE, min_size=1, max_size=20), st.booleans())
def test_much_damage_comes_to_rest(
    damages: list[tuple[str, int, int, int]], with_nodes: bool
) -> None:
    trio.run(lambda: holds(damages, with_nodes=with_nodes))


@pytest.mark.long
def test_every_row_deleted_and_every_row_hostile() -> None:
    rows = len(trio.run(populated).rows)
    for row in range(rows):
        trio.run(lambda row=row: holds([("delete", row, 0, 0)], with_nodes=True))
        for index in range(len(HOSTILE)):
            one = ("hostile", row, index, 0)
            trio.run(lambda one=one: holds([one], with_nodes=False))


def test_one_random_flip_in_every_row() -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    rows = len(trio.run(populated).rows)
    for row in range(rows):
        one = ("flip", row, random.randrange(1 << 16), random.randrange(1, 256))
        trio.run(lambda one=one: holds([one], with_nodes=False))

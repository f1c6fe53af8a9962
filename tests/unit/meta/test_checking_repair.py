"""A repair touches only rows that are what the check saw, and a finding's rows together or not."""

from __future__ import annotations

from rainfs.meta import keys
from rainfs.meta.checking_findings import Edit, Finding, Kind, Repair
from rainfs.meta.checking_repair import EDITS_PER_STEP, repair_counters, repair_rows
from rainfs.meta.directory import hash_with
from rainfs.meta.memory import MemoryEngine
from rainfs.model import InodeNumber
from tests.unit.meta.rig import Rig, open_rig


def key(number: int) -> bytes:
    return keys.xattr_key(InodeNumber(number), b"user.x")


def finding(*edits: Edit, kind: Kind = Kind.XATTR) -> Finding:
    return Finding(kind, "wrong", edits=edits)


async def repaired(rig: Rig, *findings: Finding) -> int:
    hashed = hash_with(rig.volume.name_secret)
    return await repair_rows(rig.engine, rig.session, hashed, findings)


async def test_a_row_that_changed_since_the_check_is_left_alone() -> None:
    async with open_rig() as rig:
        assert isinstance(rig.engine, MemoryEngine)
        rows = rig.engine.rows
        rows[key(1)] = b"new"
        assert await repaired(rig, finding(Edit(key(1), b"old", None))) == 0
        assert rows[key(1)] == b"new"
        assert await repaired(rig, finding(Edit(key(1), None, b"other"))) == 0
        assert rows[key(1)] == b"new"
        assert await repaired(rig, finding(Edit(key(1), b"new", None))) == 1
        assert key(1) not in rows


async def test_edits_of_one_finding_are_made_together_or_not_at_all() -> None:
    async with open_rig() as rig:
        assert isinstance(rig.engine, MemoryEngine)
        rows = rig.engine.rows
        rows[key(1)], rows[key(2)] = b"1", b"2"
        stale = finding(Edit(key(1), b"1", None), Edit(key(2), b"gone", b"x"))
        sound = finding(Edit(key(2), b"2", b"3"), Edit(key(3), None, b"new"))
        assert await repaired(rig, stale, sound) == 1
        assert (rows[key(1)], rows[key(2)], rows[key(3)]) == (b"1", b"3", b"new")


async def test_of_two_findings_about_one_row_the_first_is_settled() -> None:
    async with open_rig() as rig:
        assert isinstance(rig.engine, MemoryEngine)
        rig.engine.rows[key(1)] = b"1"
        first, second = (finding(Edit(key(1), b"1", new)) for new in (b"a", b"b"))
        assert await repaired(rig, first, second) == 1
        assert rig.engine.rows[key(1)] == b"a"


async def test_many_edits_go_in_bounded_transactions() -> None:
    async with open_rig() as rig:
        many = [finding(Edit(key(n), None, b"1")) for n in range(2 * EDITS_PER_STEP + 10)]
        assert await repaired(rig, *many) == len(many)


async def test_only_counters_are_touched_before_a_session() -> None:
    async with open_rig() as rig:
        assert isinstance(rig.engine, MemoryEngine)
        raw = rig.engine.rows[keys.NEXT_NODE]
        counter = finding(Edit(keys.NEXT_NODE, raw, b"\x09"), kind=Kind.COUNTER)
        other = finding(Edit(key(1), None, b"1"))
        assert await repair_counters(rig.engine, [other, counter]) == 1
        assert rig.engine.rows[keys.NEXT_NODE] == b"\x09"
        assert key(1) not in rig.engine.rows


async def test_an_inode_that_is_gone_meanwhile_gets_no_name() -> None:
    async with open_rig() as rig:
        lost = Finding(Kind.UNREACHABLE, "", InodeNumber(3_000), repair=Repair.REATTACH)
        assert await repaired(rig, lost) == 0

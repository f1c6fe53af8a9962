"""The check of a whole volume, and its repair: what `rainfs fsck` runs.

Owns the order: metadata on one snapshot, then every stripe's shards on the nodes.  A check writes
nothing and is safe beside a mount; a repair takes the session, so that no mount begins meanwhile,
and goes round until a check finds nothing that it could still put right.  Refuses to print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rainfs.errors import VolumeBusy
from rainfs.meta.checking import MetadataReport, check_metadata
from rainfs.meta.checking_findings import Finding, Findings
from rainfs.meta.checking_repair import repair_counters, repair_rows
from rainfs.meta.checking_scratch import Scratch
from rainfs.meta.directory import HashName, hash_with
from rainfs.meta.engine import Engine
from rainfs.meta.sessions import Session
from rainfs.meta.volume import open_volume

MAX_ROUNDS = 100
"""Checks of one repair; each of them but the last has put something right."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one check found."""

    metadata: MetadataReport

    @property
    def all_findings(self) -> Findings:
        """Findings with their counts by kind."""
        return self.metadata.findings

    @property
    def findings(self) -> Sequence[Finding]:
        """The findings that were kept: all of them unless they are very many."""
        return self.all_findings.kept

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.all_findings.total == 0


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did: the check before it, the check after it, and the findings settled."""

    before: Report
    after: Report
    settled: int


async def check(engine: Engine, *, hash_name: HashName | None = None) -> Report:
    """Check a volume without changing it; beside a mount as well.

    Raises: MetadataError, above all when the volume's own records cannot be read.
    """
    scratch = Scratch()
    try:
        return Report(await check_metadata(engine, scratch, hash_name=hash_name))
    finally:
        scratch.close()


async def repair(engine: Engine, *, hash_name: HashName | None = None) -> Repaired:
    """Check a volume and put right what can be.

    Raises: VolumeBusy while a read-write mount lives, MetadataError.
    """
    lock = engine.lock_session()
    if lock is None:
        raise VolumeBusy("the volume is mounted read-write: unmount it first")
    try:
        before = await check(engine, hash_name=hash_name)
        settled = await repair_counters(engine, before.findings)
        await engine.durable()
    finally:
        lock.release()
    if before.clean:
        return Repaired(before, before, 0)
    volume = await open_volume(engine)
    hashed = hash_name or hash_with(volume.name_secret)
    session = await Session.begin(engine, read_only=False, mountpoint="(rainfs fsck)")
    try:
        after = await check(engine, hash_name=hash_name)
        for _ in range(MAX_ROUNDS):
            done = await repair_rows(engine, session, hashed, after.findings)
            settled += done
            if not done:
                break
            after = await check(engine, hash_name=hash_name)
    finally:
        await session.end()
    return Repaired(before, after, settled)

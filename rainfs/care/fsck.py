"""The check of a whole volume, and its repair: what `rainfs fsck` runs.

Owns the order: metadata on one snapshot, then every stripe's shards on the nodes.  A check writes
nothing and is safe beside a mount; a repair takes the session, so that no mount begins meanwhile.
It puts the rows right first, round by round until a check finds nothing that it could still edit,
then the shards.  Refuses to print, and to drop extents of stripes that cannot be read: what is lost
is reported and stays.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from rainfs.array.backend import Backend
from rainfs.care.fsck_shards import ShardCheck, ShardReport, reach
from rainfs.care.mending import Mender, Outcome
from rainfs.errors import VolumeBusy
from rainfs.meta.checking import MetadataReport, check_metadata
from rainfs.meta.checking_findings import Finding, Findings, Kind, Repair
from rainfs.meta.checking_paths import hurt_paths, note_hurt
from rainfs.meta.checking_repair import repair_counters, repair_rows
from rainfs.meta.checking_scratch import Scratch, signed, unsigned
from rainfs.meta.directory import HashName, hash_with
from rainfs.meta.engine import Engine
from rainfs.meta.sessions import Session
from rainfs.meta.volume import open_volume
from rainfs.model import InodeNumber, NodeNumber, StripeId

MAX_ROUNDS = 100
"""Checks of one repair; each of them but the last has put something right."""

MAX_HURT_FILES = 100_000
"""Files with lost bytes whose paths are given."""

Backends = Mapping[NodeNumber, Backend]


class Stage(enum.Enum):
    """What a progress report is about."""

    METADATA = "metadata rows"
    STRIPES = "stripes"
    MENDING = "stripes mended"


Progress = Callable[[Stage, int, int | None], None]
"""Called with the stage, how much of it is done, and of how much if that is known."""


def _silent(stage: Stage, done: int, expected: int | None) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one check found."""

    metadata: MetadataReport
    shards: ShardReport | None = None
    """None if the nodes were not asked."""
    hurt: Sequence[bytes] = ()
    """Paths of files with bytes that are lost or cannot be read now."""
    live: Mapping[StripeId, int] = field(default_factory=dict)
    """Counted live bytes of the stripes whose row does not say them."""

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
        """Whether nothing is wrong.  Nodes that did not answer are not wrong by themselves."""
        return self.all_findings.total == 0


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did: the check before it, the check after it, and the findings settled."""

    before: Report
    after: Report
    settled: int


@dataclass(frozen=True, slots=True)
class _Fsck:
    engine: Engine
    backends: Backends | None
    hash_name: HashName | None
    progress: Progress

    async def check(self, *, with_shards: bool = True) -> Report:
        scratch = Scratch()
        try:
            metadata = await check_metadata(
                self.engine,
                scratch,
                hash_name=self.hash_name,
                progress=lambda rows: self.progress(Stage.METADATA, rows, None),
            )
            live = _unsaid_live_bytes(scratch, metadata.findings)
            _note_lost(scratch, metadata.findings)
            shards = None
            if self.backends is not None and with_shards:
                shards = await self._check_shards(scratch, metadata)
            hurt = sorted(hurt_paths(scratch, MAX_HURT_FILES))
            return Report(metadata, shards, hurt, live)
        finally:
            scratch.close()

    async def _check_shards(self, scratch: Scratch, metadata: MetadataReport) -> ShardReport:
        assert self.backends is not None
        volume = await open_volume(self.engine)
        sites, silent = await reach(volume.id, metadata.nodes, self.backends)
        checker = ShardCheck(
            self.engine,
            scratch,
            metadata.findings,
            sites,
            silent,
            metadata.members,
            newest_epoch=metadata.newest_epoch,
            progress=lambda done: self.progress(Stage.STRIPES, done, metadata.stripes),
        )
        return await checker.run()

    async def mend(self, session: Session, report: Report) -> int:
        """Mend the stripes of a report; returns how many are whole again."""
        due = [f.stripe for f in report.findings if f.repair is Repair.MEND and f.stripe]
        stripes = list(dict.fromkeys(due))
        if self.backends is None or not stripes:
            return 0
        volume = await open_volume(self.engine)
        sites, _ = await reach(volume.id, report.metadata.nodes, self.backends)
        # The choice of a node needs no secrets.
        random = Random()  # noqa: S311
        mender = Mender(self.engine, session, sites, report.metadata.members, random)
        mended = 0
        for done, stripe in enumerate(stripes):
            self.progress(Stage.MENDING, done, len(stripes))
            outcome = await mender.mend(stripe, live_bytes=report.live.get(stripe))
            mended += outcome is Outcome.MENDED
        self.progress(Stage.MENDING, len(stripes), len(stripes))
        return mended


async def check(
    engine: Engine,
    backends: Backends | None = None,
    *,
    hash_name: HashName | None = None,
    progress: Progress = _silent,
) -> Report:
    """Check a volume without changing it, beside a mount as well; without nodes, metadata only.

    Raises: MetadataError, above all when the volume's own records cannot be read.
    """
    return await _Fsck(engine, backends, hash_name, progress).check()


async def repair(
    engine: Engine,
    backends: Backends | None = None,
    *,
    hash_name: HashName | None = None,
    progress: Progress = _silent,
) -> Repaired:
    """Check a volume and put right what can be; without nodes, metadata only.

    Raises: VolumeBusy while a read-write mount lives, MetadataError.
    """
    lock = engine.lock_session()
    if lock is None:
        raise VolumeBusy("the volume is mounted read-write: unmount it before a repair")
    try:
        before = await _Fsck(engine, backends, hash_name, progress).check()
        settled = await repair_counters(engine, before.findings)
        await engine.durable()
    finally:
        lock.release()
    if before.clean:
        return Repaired(before, before, 0)
    volume = await open_volume(engine)
    session = await Session.begin(engine, read_only=False, mountpoint="(rainfs fsck)")
    try:
        fsck = _Fsck(engine, backends, hash_name, progress)
        hashed = hash_name or hash_with(volume.name_secret)
        rows = await fsck.check(with_shards=False)
        for _ in range(MAX_ROUNDS):
            done = await repair_rows(engine, session, hashed, rows.findings)
            settled += done
            if not done:
                break
            rows = await fsck.check(with_shards=False)
        after = rows
        if backends is not None:
            after = await fsck.check()
            mended = await fsck.mend(session, after)
            if mended:
                settled += mended
                after = await fsck.check()
    finally:
        await session.end()
    # Some things are put right by taking the session.
    return Repaired(before, after, max(settled, before.all_findings.total - _total(after)))


def _total(report: Report) -> int:
    return report.all_findings.total


def _unsaid_live_bytes(scratch: Scratch, findings: Findings) -> dict[StripeId, int]:
    """Count the live bytes of stripes whose placement is to be found again."""
    found: dict[StripeId, int] = {}
    for finding in findings.kept:
        if finding.kind is Kind.PLACEMENT and finding.stripe is not None:
            query = "SELECT bytes FROM live WHERE stripe=?"
            row = scratch.one(query, signed(finding.stripe))
            found[finding.stripe] = int(row[0]) if row is not None else 0
    return found


def _note_lost(scratch: Scratch, findings: Findings) -> None:
    """Note the files that the findings about metadata take bytes from."""
    for finding in findings.kept:
        if finding.kind is Kind.EXTENT and finding.inode is not None:
            if any(edit.key[:1] == b"E" and edit.new is None for edit in finding.edits):
                note_hurt(scratch, finding.inode)
        elif finding.kind is Kind.STRIPE_LOST and finding.stripe is not None:
            query = "SELECT DISTINCT ino FROM extent WHERE stripe=?"
            for (ino,) in list(scratch.rows(query, signed(finding.stripe))):
                note_hurt(scratch, InodeNumber(unsigned(ino)))

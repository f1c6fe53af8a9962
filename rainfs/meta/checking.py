"""The check of all metadata, on one snapshot.

Owns the order of its passes: every row by itself (`checking_rows`), then names against inodes
(`checking_tree`), inodes against what they own (`checking_inodes`), stripes against extents
(`checking_stripes`).  Refuses to know nodes, to print and to write; `checking_repair` carries out
what the findings say.  Memory is bounded by `checking_scratch` and MAX_KEPT findings.

On the embedded engine the snapshot is one read transaction that does not suspend: other tasks of
the process wait for it, other processes go on, and their log of changes grows meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rainfs.meta.checking_findings import Findings
from rainfs.meta.checking_inodes import InodePass
from rainfs.meta.checking_rows import RowPass
from rainfs.meta.checking_scratch import Scratch, unsigned
from rainfs.meta.checking_stripes import StripePass
from rainfs.meta.checking_tree import TreePass
from rainfs.meta.directory import HashName, hash_with
from rainfs.meta.engine import Engine, Reader
from rainfs.meta.volume import load_volume
from rainfs.model import Node, NodeNumber

PAGE_ROWS = 256
"""Rows read at a time; of the longest, block tables, these are some tens of MiB."""

_FIRST, _LAST = b"", b"\xff" * 32

Progress = Callable[[int], None]
"""Called with how many rows were read."""


@dataclass(frozen=True, slots=True)
class MetadataReport:
    """What the metadata says and what is wrong with it."""

    findings: Findings
    rows: int
    stripes: int
    nodes: Mapping[NodeNumber, Node]
    members: frozenset[NodeNumber]
    """All nodes that the volume has, also those whose rows cannot be read."""
    newest_epoch: int
    """The last session that had begun; 0 if that is not known."""


async def check_metadata(
    engine: Engine,
    scratch: Scratch,
    *,
    hash_name: HashName | None = None,
    progress: Progress = lambda rows: None,
) -> MetadataReport:
    """Check every row and every relation between rows; `scratch` holds what they were afterwards.

    Raises: MetadataForeign or MetadataVersion when the volume's own records are unreadable.
    """

    async def body(reader: Reader) -> MetadataReport:
        scratch.clear()
        findings = Findings()
        volume = await load_volume(reader)
        hashed = hash_name or hash_with(volume.name_secret)
        rows = RowPass(scratch, findings, hashed)
        start = _FIRST
        while page := await reader.scan(start, _LAST, limit=PAGE_ROWS):
            for key, raw in page:
                rows.take(key, raw)
            progress(rows.rows)
            start = page[-1][0] + b"\0"
        rows.finish()
        await rows.stripes.settle(reader)
        await TreePass(reader, scratch, findings, hashed, rows.volume.inode_stop).run()
        await InodePass(reader, scratch, findings, volume).run()
        await StripePass(reader, scratch, findings).run()
        (stripes,) = scratch.one("SELECT count(*) FROM stripe") or (0,)
        members = [NodeNumber(unsigned(n)) for (n,) in scratch.rows("SELECT number FROM node")]
        volume_rows = rows.volume
        return MetadataReport(
            findings,
            rows.rows,
            int(stripes),
            volume_rows.nodes,
            frozenset(members),
            volume_rows.newest_epoch,
        )

    return await engine.read(body)

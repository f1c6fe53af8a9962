"""Carrying out what a check found: edits in bounded transactions, and names in /lost+found.

Owns no judgement.  Invariants: a finding's edits are applied together or not at all, and only while
every row is what the check saw; what one round cannot do (two findings edit one row) the next check
finds again.  Counters are put right before a session begins, since a session takes numbers of them.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Sequence

from msgspec.structs import replace

from rainfs.errors import NotFound, RainError
from rainfs.meta.checking_findings import Edit, Finding, Kind, Repair
from rainfs.meta.directory import Directory, HashName
from rainfs.meta.engine import Engine, Transaction
from rainfs.meta.inodes import load_attr, store_attr
from rainfs.meta.namespace import Namespace
from rainfs.meta.records import Dirent
from rainfs.meta.sessions import Session
from rainfs.model import ROOT_INODE, InodeNumber

EDITS_PER_STEP = 4_000
"""Rows that one transaction changes, at least one finding's."""

LOST_FOUND = b"lost+found"
MAX_LOST_FOUNDS = 100
"""Names that are tried where the plain one is taken by something else."""

log = logging.getLogger(__name__)


async def repair_counters(engine: Engine, findings: Sequence[Finding]) -> int:
    """Put counters right; the caller holds the session lock.  Returns how many."""
    due = [finding for finding in findings if finding.kind is Kind.COUNTER]
    return await _apply_all(engine, None, due)


async def repair_rows(
    engine: Engine, session: Session, hash_name: HashName, findings: Sequence[Finding]
) -> int:
    """Apply all edits, then give nameless inodes a name.  Returns how many findings that settled.

    Raises: SessionLost, MetadataError.
    """
    due = [finding for finding in findings if finding.edits]
    done = await _apply_all(engine, session, due)
    nameless = [finding for finding in findings if finding.repair is Repair.REATTACH]
    if not nameless:
        return done
    try:
        directory = await _lost_found(engine, session, hash_name)
    except RainError as error:
        # The root itself may not be right yet: the next round tries again.
        log.info("no %s yet: %s", LOST_FOUND.decode(), error)
        return done
    for finding in nameless:
        assert finding.inode is not None
        done += await _reattach(engine, session, hash_name, directory, finding.inode)
    return done


async def _apply_all(engine: Engine, session: Session | None, due: Sequence[Finding]) -> int:
    done = 0
    batch: list[tuple[Edit, ...]] = []
    size = 0
    for finding in due:
        if batch and size + len(finding.edits) > EDITS_PER_STEP:
            done += await _apply(engine, session, batch)
            batch, size = [], 0
        batch.append(finding.edits)
        size += len(finding.edits)
    if batch:
        done += await _apply(engine, session, batch)
    return done


async def _apply(engine: Engine, session: Session | None, batch: Sequence[tuple[Edit, ...]]) -> int:
    async def body(transaction: Transaction) -> int:
        if session is not None:
            await session.check(transaction)
        applied = 0
        for edits in batch:
            rows = [await transaction.get(edit.key) for edit in edits]
            if any(row != edit.old for row, edit in zip(rows, edits, strict=True)):
                continue
            for edit in edits:
                if edit.new is None:
                    transaction.delete(edit.key)
                else:
                    transaction.put(edit.key, edit.new)
            applied += 1
        return applied

    return await engine.run(body)


async def _lost_found(engine: Engine, session: Session, hash_name: HashName) -> InodeNumber:
    """Return the directory for what has no name, made if it is not there."""
    names = Namespace(engine, session, hash_name=hash_name)
    for number in range(MAX_LOST_FOUNDS):
        name = LOST_FOUND + (b".%d" % number if number else b"")
        try:
            attr = await names.lookup(ROOT_INODE, name)
        except NotFound:
            volume_root = await names.getattr(ROOT_INODE)
            attr = await names.make(
                ROOT_INODE,
                name,
                mode=stat.S_IFDIR | 0o700,
                uid=0,
                gid=0,
                now_ns=volume_root.mtime_ns,
            )
        if stat.S_ISDIR(attr.mode) and attr.nlink > 0:
            return attr.inode
    raise NotFound("every name for lost files is taken by something else")


async def _reattach(
    engine: Engine,
    session: Session,
    hash_name: HashName,
    directory: InodeNumber,
    inode: InodeNumber,
) -> int:
    """Name an inode `#number` in the directory; returns 0 if that cannot be, 1 if it was done."""
    entries = Directory(hash_name)

    async def body(transaction: Transaction) -> None:
        await session.check(transaction)
        parent = await load_attr(transaction, directory)
        attr = await load_attr(transaction, inode)
        is_directory = stat.S_ISDIR(attr.mode)
        entry = Dirent(b"#%d" % inode, inode, stat.S_IFMT(attr.mode))
        await entries.insert(transaction, directory, entry)
        if is_directory:
            store_attr(transaction, replace(attr, nlink=max(attr.nlink, 2), parent=directory))
            store_attr(transaction, replace(parent, nlink=parent.nlink + 1))
        else:
            store_attr(transaction, replace(attr, nlink=1))

    if inode == directory:
        return 0
    try:
        await engine.run(body)
    except RainError as error:
        log.info("inode %d is not given a name: %s", inode, error)
        return 0
    return 1

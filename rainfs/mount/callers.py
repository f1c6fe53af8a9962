"""The process behind a request: what FUSE tells of it, what only /proc knows, and what it may keep.

The mount has promised the kernel (`handshake`) to take set-id bits away where a change of content
or of the owner demands it.  A write by somebody who may not keep them is announced by a setattr
that changes nothing; the kernel itself removes security.capability, and never leaves the bits to
us where it was promised nothing.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pyfuse3

from rainfs.vfs.attributes import Change
from rainfs.vfs.options import Caller

_NO_CHANGE = Change()

_GROUPS = re.compile(r"^Groups:[ \t]*(.*)$", re.MULTILINE)


def caller_of(ctx: pyfuse3.RequestContext) -> Caller:
    """Return who asks."""
    return Caller(ctx.uid, ctx.gid, ctx.umask)


def is_in_group(ctx: pyfuse3.RequestContext, gid: int) -> bool:
    """Whether who asks is root or belongs to a group; FUSE does not tell the further groups."""
    if ctx.uid == 0 or ctx.gid == gid:
        return True
    try:
        status = Path(f"/proc/{ctx.pid}/status").read_text(errors="replace")
    except OSError:
        return False  # Gone, or of another process namespace: nothing speaks for it.
    found = _GROUPS.search(status)
    return found is not None and str(gid) in found[1].split()


def takes_set_id(change: Change, ctx: pyfuse3.RequestContext) -> bool:
    """Whether the change takes away what set-id bits the file has."""
    if change.mode is not None:
        return False
    if change.size is not None:
        return ctx.uid != 0
    return change.uid is not None or change.gid is not None or change == _NO_CHANGE


def without_set_id(mode: int, ctx: pyfuse3.RequestContext, gid: int) -> int:
    """Return what is left of the mode of a file of group `gid`.

    A group's bit without its right to execute marks no program: only strangers to it take that.
    """
    if stat.S_ISDIR(mode):
        return mode
    if mode & stat.S_ISGID and (mode & stat.S_IXGRP or not is_in_group(ctx, gid)):
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID

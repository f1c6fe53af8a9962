"""The process behind a request: what FUSE tells of it, and what only /proc knows."""

from __future__ import annotations

import re
from pathlib import Path

import pyfuse3

from rainfs.vfs.options import Caller

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

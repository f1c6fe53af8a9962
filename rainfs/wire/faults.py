"""How an error travels: each class has a stable code, and is raised again at the client.

Owns the table of codes.  Invariants: a code is never given to another class; a class that is not in
the table travels as its nearest ancestor that is; an unknown code, from a later node, becomes a
plain StorageError.
"""

from __future__ import annotations

from rainfs.errors import (
    ForeignVolume,
    InputError,
    NodeFailing,
    NodeFull,
    NodeUnavailable,
    ProtocolError,
    RainError,
    RemoteProtocolError,
    ShardConflict,
    ShardCorrupt,
    ShardMissing,
    StorageError,
    StoreDamaged,
    StoreInUse,
    StoreTooSmall,
)

MAX_FAULT_TEXT_CHARS = 500
"""Longer messages are cut: they are one line for a user."""

CODES: dict[int, type[RainError]] = {
    0: StorageError,
    1: NodeUnavailable,
    2: NodeFull,
    3: NodeFailing,
    4: ShardMissing,
    5: ShardCorrupt,
    6: ShardConflict,
    7: ForeignVolume,
    8: StoreInUse,
    9: StoreDamaged,
    10: StoreTooSmall,
    11: RemoteProtocolError,
    12: InputError,
}
_CODE_OF = {fault: code for code, fault in CODES.items()}
_CODE_OF[ProtocolError] = _CODE_OF[RemoteProtocolError]


def fault_code(error: RainError) -> int:
    """Return the code under which `error` travels."""
    for ancestor in type(error).__mro__:
        if (code := _CODE_OF.get(ancestor)) is not None:
            return code
    return _CODE_OF[StorageError]


def fault_text(error: RainError) -> str:
    """Return the message that travels with it: one line, cut to MAX_FAULT_TEXT_CHARS."""
    return " ".join(str(error).split())[:MAX_FAULT_TEXT_CHARS]


def fault(code: int, text: str) -> RainError:
    """Return the error to raise for an answer `Failed(code, text)`."""
    return CODES.get(code, StorageError)(text)

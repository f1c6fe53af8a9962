"""Which message may come when: the whole protocol as a table, the same for both roles.

A pair that is not in `TRANSITIONS` is a protocol error, whoever sent it.  `SENDER` says which role
may send a kind, and `ANSWERS` which kinds may answer a request.  Nothing here knows which side it
is on.
"""

from __future__ import annotations

import enum

from rainfs.wire.messages import Kind, Role


class State(enum.IntEnum):
    """Where a connection is."""

    NEW = 0
    GREETED = 1
    OPEN = 2
    CLOSED = 3


ANSWERS: dict[Kind, frozenset[Kind]] = {
    Kind.PUT: frozenset({Kind.DONE, Kind.FAILED}),
    Kind.PUT_SHARED: frozenset({Kind.DONE, Kind.FAILED}),
    Kind.GET: frozenset({Kind.DATA, Kind.FAILED}),
    Kind.DELETE: frozenset({Kind.DONE, Kind.FAILED}),
    Kind.LIST: frozenset({Kind.LISTING, Kind.FAILED}),
    Kind.STAT: frozenset({Kind.DESCRIBED, Kind.FAILED}),
    Kind.SYNC: frozenset({Kind.DONE, Kind.FAILED}),
    Kind.HEALTH: frozenset({Kind.REPORT, Kind.FAILED}),
    Kind.CLAIM: frozenset({Kind.DONE, Kind.FAILED}),
    Kind.LOCATE: frozenset({Kind.LOCATED, Kind.FAILED}),
}
REQUESTS = frozenset(ANSWERS)
_ALL_ANSWERS: frozenset[Kind] = frozenset().union(*ANSWERS.values())

TRANSITIONS: dict[State, dict[Kind, State]] = {
    State.NEW: {Kind.HELLO: State.GREETED},
    State.GREETED: {Kind.WELCOME: State.OPEN, Kind.FAILED: State.CLOSED},
    State.OPEN: dict.fromkeys(REQUESTS | _ALL_ANSWERS, State.OPEN),
    State.CLOSED: {},
}

SENDER: dict[Kind, Role] = {
    Kind.HELLO: Role.CLIENT,
    Kind.WELCOME: Role.NODE,
    **dict.fromkeys(REQUESTS, Role.CLIENT),
    **dict.fromkeys(_ALL_ANSWERS, Role.NODE),
}

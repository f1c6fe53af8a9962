"""From a TCP connection to the Unix socket of a node on the same host.

Owns the question whether the node is a neighbour, and the second greeting.  Refuses to know what
either connection is used for.  Invariants: only what is directly connected goes over (both ends
see the same two loopback addresses, so that a proxy between them stays between them); only to a
process of our own user or of root; and only to the node that was greeted.  Whatever fails costs
the attempt, and the TCP connection stays in use.
"""

from __future__ import annotations

import logging
import os

import trio

from rainfs.array.backends.link import Link
from rainfs.array.backends.neighbour import Neighbour
from rainfs.errors import RainError, RemoteProtocolError
from rainfs.memory import Recycler
from rainfs.model import VolumeId
from rainfs.shared_memory import SharedArea
from rainfs.transport import connect_unix, is_loopback
from rainfs.wire.messages import Welcome

log = logging.getLogger(__name__)

GOING_OVER_S = 1.0
"""For the second greeting; the node has just answered the first one."""

GOING_OVER_SHARE = 0.25
"""Of a call's deadline, at most: the call that made the connection still has to be answered."""

ROOT = 0


async def go_over(
    link: Link,
    welcome: Welcome,
    peer: str,
    volume: VolumeId | None,
    *,
    deadline_s: float,
    recycler: Recycler | None,
    area: SharedArea | None = None,
) -> Link | None:
    """Return a greeted connection to the node's Unix socket, or None where `link` has to do.

    With a `recycler` it brings the storage file along, which is read into memory from there.  The
    node is shown `area`, if there is one.
    """
    if not welcome.unix_name or volume is None:
        return None  # Without a volume it is a question or two, not worth another connection.
    nearer: Link | None = None
    try:
        if not _is_direct(link, welcome):
            return None
        stream = connect_unix(welcome.unix_name, peer)
        nearer = Link(stream, volume, deadline_s=deadline_s)
        if stream.peer_user not in (os.geteuid(), ROOT):
            raise RemoteProtocolError(f"{peer}: another user's process has its socket")
        with trio.fail_after(min(GOING_OVER_S, deadline_s * GOING_OVER_SHARE)):
            again = await nearer.greet(descriptors=recycler is not None, area=area)
        if again.uuid != welcome.uuid:
            raise RemoteProtocolError(f"{peer}: another node has its socket")
        if again.descriptors and recycler is not None:
            nearer.neighbour = Neighbour(nearer.take_descriptors(), recycler)
    except (RainError, trio.TooSlowError) as error:
        log.info("%s: stays on TCP: %s", peer, error)
        if nearer is not None:
            nearer.drop(str(error))
        return None
    except BaseException:
        if nearer is not None:
            nearer.drop(f"{peer}: not greeted")
        raise
    return nearer


def _is_direct(link: Link, welcome: Welcome) -> bool:
    ours, theirs = link.addresses
    return (
        (ours, theirs) == (welcome.client_address, welcome.node_address)
        and is_loopback(ours)
        and is_loopback(theirs)
    )

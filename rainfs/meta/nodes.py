"""The table of a volume's nodes.

Owns the rows and their numbers, which are never used again.  Refuses to know whether a node lives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from rainfs.errors import InputError
from rainfs.meta import keys
from rainfs.meta.engine import Engine, Reader, Transaction
from rainfs.meta.records import COUNTERS, NODES
from rainfs.model import Node, NodeNumber, NodeUuid

MAX_NODES = 100_000


def check_distinct(nodes: Sequence[Node]) -> None:
    """Raises: InputError unless numbers are positive and numbers, ids, names, URLs all differ."""
    if any(node.number < 1 for node in nodes):
        raise InputError("node numbers start at 1")
    if len({node.number for node in nodes}) != len(nodes):
        raise InputError("two nodes have the same number")
    seen: dict[str, Node] = {}
    for node in nodes:
        for kind, value in (("id", node.uuid.hex()), ("name", node.name), ("URL", node.url)):
            other = seen.setdefault(f"{kind} {value}", node)
            if other is not node:
                raise InputError(
                    f"nodes {other.name} and {node.name} ({node.url}) have the same {kind}"
                )


async def load_nodes(reader: Reader) -> list[Node]:
    """Return all nodes by number, inside a transaction."""
    rows = await reader.scan(*keys.table(b"N"), limit=MAX_NODES)
    return [NODES.decode(raw) for _, raw in rows]


async def list_nodes(engine: Engine) -> list[Node]:
    """Return all nodes by number."""
    return await engine.read(load_nodes)


async def add_node(
    engine: Engine, uuid: NodeUuid, name: str, url: str, labels: Mapping[str, str]
) -> Node:
    """Add a node; durable on return.  Raises: InputError if id, name or URL is taken."""

    async def body(transaction: Transaction) -> Node:
        nodes = await load_nodes(transaction)
        if len(nodes) >= MAX_NODES:
            raise InputError(f"a volume has at most {MAX_NODES} nodes")
        raw = await transaction.get(keys.NEXT_NODE)
        number = NodeNumber(COUNTERS.decode(raw) if raw is not None else 1)
        node = Node(number, uuid, name, url, dict(labels))
        check_distinct([*nodes, node])
        transaction.put(keys.NEXT_NODE, COUNTERS.encode(number + 1))
        transaction.put(keys.node_key(number), NODES.encode(node))
        return node

    node = await engine.run(body)
    await engine.durable()
    return node


async def change_node(
    engine: Engine,
    number: NodeNumber,
    *,
    name: str | None = None,
    url: str | None = None,
    labels: Mapping[str, str] | None = None,
    draining: bool | None = None,
) -> Node:
    """Change what is given; durable on return.

    Raises: InputError for an unknown node or a name or URL that another one has.
    """

    async def body(transaction: Transaction) -> Node:
        nodes = await load_nodes(transaction)
        old = next((node for node in nodes if node.number == number), None)
        if old is None:
            raise InputError(f"there is no node {number}")
        node = msgspec.structs.replace(
            old,
            name=old.name if name is None else name,
            url=old.url if url is None else url,
            labels=old.labels if labels is None else dict(labels),
            draining=old.draining if draining is None else draining,
        )
        check_distinct([*(other for other in nodes if other is not old), node])
        transaction.put(keys.node_key(number), NODES.encode(node))
        return node

    node = await engine.run(body)
    await engine.durable()
    return node

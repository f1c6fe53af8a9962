"""Which nodes hold the shards of a stripe.

Owns the choice of distinct nodes, weighted by free space, at most m shards in one failure domain
wherever there are domains enough.  Refuses to know node states: the caller passes those that may
be chosen.  Pure, apart from the injected `Random`.

Every node is drawn with a probability proportional to its weight, cut at 1 (never two shards on a
node) and cut for each domain at the limit (water filling).  Systematic sampling with domains
side by side then takes from each domain at most its probability sum rounded up, so both rules hold
in every draw and not only on average.

Source: W. G. Madow, "On the Theory of Systematic Sampling, II", 1949.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from rainfs.model import Node, NodeNumber

DOMAIN_LABEL = "host"
BISECTIONS = 60
"""Halvings of the interval that holds the water level: below one part in 2^53 of it."""


class Candidate(msgspec.Struct, frozen=True):
    """A node that may be chosen."""

    number: NodeNumber
    domain: str
    weight: int
    """Free bytes; a node without any is not drawn while others are left."""


@dataclass(frozen=True, slots=True)
class Odds:
    """Probabilities for drawing `count` nodes: per domain, pairs of node and probability."""

    count: int
    domains: tuple[tuple[tuple[NodeNumber, float], ...], ...]


def domain_of(node: Node) -> str:
    """Return the failure domain: the host label, or the node itself where none is given."""
    label = node.labels.get(DOMAIN_LABEL)
    return f"host {label}" if label else f"node {node.number}"


def domain_limit(candidates: Sequence[Candidate], count: int, m: int) -> int:
    """Return the fewest shards a domain must be allowed so that `count` nodes can be drawn.

    It is m (at least 1) wherever the domains are enough.
    """
    sizes = Counter(candidate.domain for candidate in candidates).values()
    limit = max(1, m)
    while sum(min(size, limit) for size in sizes) < count and limit < count:
        limit += 1
    return limit


def odds_for(candidates: Sequence[Candidate], count: int, m: int) -> Odds:
    """Return the odds for drawing `count` of `candidates`.  Raises: ValueError with too few."""
    if not 1 <= count <= len(candidates):
        raise ValueError(f"{count} of {len(candidates)} nodes")
    limit = domain_limit(candidates, count, m)
    heaviest = max(1, max(candidate.weight for candidate in candidates))
    domains: dict[str, list[tuple[NodeNumber, float]]] = {}
    for candidate in candidates:
        # A weight of nothing would leave some draws short of nodes; it stays negligible.
        weight = max(candidate.weight / heaviest, 1e-9)
        domains.setdefault(candidate.domain, []).append((candidate.number, weight))
    groups = list(domains.values())

    def drawn(level: float) -> float:
        return sum(min(limit, sum(min(1.0, level * w) for _, w in group)) for group in groups)

    low, high = 0.0, 1.0
    while drawn(high) < count and high < 1e12:
        low, high = high, high * 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if drawn(middle) < count:
            low = middle
        else:
            high = middle
    result: list[tuple[tuple[NodeNumber, float], ...]] = []
    for group in groups:
        shares = [(number, min(1.0, high * weight)) for number, weight in group]
        total = sum(share for _, share in shares)
        scale = limit / total if total > limit else 1.0
        result.append(tuple((number, share * scale) for number, share in shares))
    return Odds(count, tuple(result))


def draw(odds: Odds, random: Random) -> list[NodeNumber]:
    """Return `odds.count` distinct nodes in random order."""
    line: list[tuple[NodeNumber, float]] = []
    for domain in random.sample(odds.domains, len(odds.domains)):
        line += random.sample(domain, len(domain)) if len(domain) > 1 else domain
    total = sum(share for _, share in line)
    # Rounding may leave the line a hair longer or shorter than `count`: stretch the marks to it.
    spacing = total / odds.count
    mark = random.random() * spacing
    chosen: list[NodeNumber] = []
    at = 0.0
    for number, share in line:
        at += share
        if at > mark and len(chosen) < odds.count:
            chosen.append(number)
            mark += spacing
    if len(chosen) < odds.count:
        left = [number for number, _ in reversed(line) if number not in chosen]
        chosen += left[: odds.count - len(chosen)]
    random.shuffle(chosen)
    return chosen


def substitute(
    candidates: Sequence[Candidate],
    used: Collection[NodeNumber],
    kept_domains: Sequence[str],
    m: int,
    random: Random,
) -> NodeNumber | None:
    """Return a node for a shard whose own node failed, or None when all have been tried.

    `used` were tried already; `kept_domains` are those of the stripe's other shards.  A domain
    that holds m of them is chosen only when no other is left.
    """
    free = [candidate for candidate in candidates if candidate.number not in used]
    if not free:
        return None
    held = Counter(kept_domains)
    allowed = [candidate for candidate in free if held[candidate.domain] < max(1, m)]
    pool = allowed or free
    weights = [max(1, candidate.weight) for candidate in pool]
    return random.choices(pool, weights)[0].number

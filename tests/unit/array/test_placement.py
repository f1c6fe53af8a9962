"""Which nodes get shards."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rainfs.array.placement import Candidate, domain_limit, domain_of, draw, odds_for, substitute
from rainfs.model import Node, NodeNumber, NodeUuid


def node(number: int, domain: str, weight: int) -> Candidate:
    return Candidate(NodeNumber(number), domain, weight)


@st.composite
def draws(draw_: st.DrawFn) -> tuple[list[Candidate], int, int, int]:
    count = draw_(st.integers(1, 20))
    hosts = draw_(st.integers(1, count))
    candidates = [
        node(i, f"h{draw_(st.integers(1, hosts))}", draw_(st.integers(0, 10**12)))
        for i in range(1, count + 1)
    ]
    return (
        candidates,
        draw_(st.integers(1, count)),
        draw_(st.integers(0, 4)),
        draw_(st.integers(0, 2**32)),
    )


@given(draws())
def test_shards_lie_on_distinct_nodes_and_few_in_one_domain(
    case: tuple[list[Candidate], int, int, int],
) -> None:
    candidates, count, m, seed = case
    odds = odds_for(candidates, count, m)
    random = Random(seed)
    limit = domain_limit(candidates, count, m)
    domains = {candidate.number: candidate.domain for candidate in candidates}
    for _ in range(10):
        chosen = draw(odds, random)
        assert len(chosen) == len(set(chosen)) == count
        assert max(Counter(domains[number] for number in chosen).values()) <= limit


@given(draws())
def test_the_domain_limit_is_m_wherever_domains_are_enough(
    case: tuple[list[Candidate], int, int, int],
) -> None:
    candidates, count, m, _ = case
    limit = domain_limit(candidates, count, m)
    sizes = Counter(candidate.domain for candidate in candidates).values()
    if sum(min(size, max(1, m)) for size in sizes) >= count:
        assert limit == max(1, m)
    else:
        assert sum(min(size, limit - 1) for size in sizes) < count


def test_nodes_of_sizes_one_to_ten_fill_in_proportion() -> None:
    seed = 7
    print("seed", seed)
    random = Random(seed)
    # With six shards a stripe, no node may hold more than a sixth of all bytes.
    candidates = [node(i, f"h{i}", i * 1000) for i in range(1, 11)]
    odds = odds_for(candidates, 4, 2)
    hits: Counter[int] = Counter()
    rounds = 20_000
    for _ in range(rounds):
        hits.update(draw(odds, random))
    for candidate in candidates:
        expected = rounds * 4 * candidate.weight / sum(c.weight for c in candidates)
        assert abs(hits[candidate.number] - expected) < 0.05 * expected + 50


def test_every_shard_index_visits_every_node() -> None:
    random = Random(3)
    odds = odds_for([node(i, f"h{i}", 1000) for i in range(1, 7)], 6, 2)
    seen = {(shard, n) for _ in range(500) for shard, n in enumerate(draw(odds, random))}
    assert len(seen) == 36


def test_too_few_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of 1"):
        odds_for([node(1, "a", 1)], 2, 1)


def test_a_substitute_prefers_a_domain_that_is_not_full() -> None:
    candidates = [node(1, "a", 100), node(2, "a", 100), node(3, "b", 1)]
    for seed in range(20):
        assert substitute(candidates, {1}, ["a", "a"], 2, Random(seed)) == 3
    assert substitute(candidates, {1, 3}, ["a", "a"], 2, Random(1)) == 2
    assert substitute(candidates, {1, 2, 3}, [], 2, Random(1)) is None


def test_a_node_without_a_host_label_is_a_domain_of_its_own() -> None:
    rows = [
        Node(NodeNumber(i), NodeUuid(bytes(16)), "n", "fake://", labels)
        for i, labels in enumerate([{}, {}, {"host": "2"}, {"host": "2"}], 1)
    ]
    assert len({domain_of(row) for row in rows}) == 3

"""The block cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rainfs.array.cache import BlockCache
from rainfs.model import StripeId

ONE, TWO = StripeId(1), StripeId(2)


def test_the_least_recently_used_run_goes_first() -> None:
    cache = BlockCache(300)
    cache.put(ONE, {0: b"a" * 100}, 100)
    cache.put(ONE, {1: b"b" * 100}, 100)
    cache.put(TWO, {0: b"c" * 100}, 100)
    assert cache.get(ONE, 0) == b"a" * 100
    cache.put(TWO, {1: b"d" * 100}, 100)
    assert cache.get(ONE, 1) is None
    assert cache.get(ONE, 0) is not None
    assert cache.nbytes == 300


def test_blocks_of_one_buffer_are_counted_and_dropped_together() -> None:
    cache = BlockCache(250)
    cache.put(ONE, {0: b"a" * 50, 1: b"b" * 50}, 200)
    assert cache.nbytes == 200
    cache.put(TWO, {0: b"c" * 100}, 100)
    assert cache.get(ONE, 0) is None
    assert cache.get(ONE, 1) is None
    assert cache.nbytes == 100


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = BlockCache(10)
    cache.put(ONE, {0: b"a" * 11}, 11)
    assert cache.get(ONE, 0) is None
    assert cache.nbytes == 0


def test_a_forgotten_stripe_leaves_nothing() -> None:
    cache = BlockCache(1000)
    cache.put(ONE, {0: b"a" * 50, 1: b"b" * 50}, 100)
    cache.put(ONE, {2: b"c" * 50}, 50)
    cache.put(TWO, {0: b"d" * 50}, 50)
    cache.forget(ONE)
    cache.forget(StripeId(9))
    assert cache.nbytes == 50
    assert cache.get(TWO, 0) == b"d" * 50
    assert not cache.has(ONE, 2)


STEPS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True),
        st.integers(1, 60),
        st.sampled_from(["put", "get", "forget"]),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_bound_holds_and_content_is_right(
    steps: list[tuple[int, list[int], int, str]],
) -> None:
    cache = BlockCache(100)
    for stripe, blocks, nbytes, what in steps:
        key = StripeId(stripe)
        if what == "put":
            cache.put(key, {b: bytes([stripe, b]) for b in blocks}, nbytes)
        elif what == "forget":
            cache.forget(key)
            assert not any(cache.has(key, b) for b in range(6))
        else:
            for block in blocks:
                assert cache.get(key, block) in (None, bytes([stripe, block]))
        assert 0 <= cache.nbytes <= 100
    for stripe in range(1, 5):
        cache.forget(StripeId(stripe))
    assert cache.nbytes == 0

"""Back-off: doubling, jittered, bounded, and over at the first success."""

from __future__ import annotations

import random

from rainfs.array.backends.reach import FIRST_WAIT_S, MAX_WAIT_S, Reach


def next_try_s(reach: Reach, now_s: float) -> float:
    low, high = 0.0, 2 * MAX_WAIT_S
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reach.may_try(now_s + middle) else (middle, high)
    return high


def test_waits_double_within_their_jitter_up_to_the_bound() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    reach = Reach(random.Random(seed))
    assert reach.may_try(0)
    for failures in range(100):
        reach.failed(50.0, "refused")
        full = min(FIRST_WAIT_S * 2**failures, MAX_WAIT_S)
        assert 0.499 * full <= next_try_s(reach, 50.0) <= full + 1e-9
        assert reach.failing
        assert reach.reason == "refused"
    reach.succeeded()
    assert reach.may_try(50.0)
    assert not reach.failing
    reach.failed(60.0, "again")
    assert next_try_s(reach, 60.0) <= FIRST_WAIT_S + 1e-9


def test_nodes_do_not_come_back_in_step() -> None:
    waits = set()
    for seed in range(20):
        reach = Reach(random.Random(seed))
        reach.failed(0.0, "")
        waits.add(round(next_try_s(reach, 0.0), 6))
    assert len(waits) > 10

"""Ski rental: when a region is fetched whole, with a clock and costs that the test makes up."""

from __future__ import annotations

from random import Random

from rainfs.model import KIB, MIB, InodeNumber
from rainfs.vfs.regions import (
    GRACE_S,
    KEEPING_S,
    MAX_DEAR,
    MAX_FILES,
    MAX_REGIONS,
    REGION_BYTES,
    REGRET_WITHIN_S,
    RUNS_AT_ONCE,
    Regions,
)

FILE = InodeNumber(7)
HUGE = 1 << 50
"""So large that what is paid never comes near its price."""


def market(price: float) -> Regions:
    """Regions whose whole costs `price` small gets."""
    regions = Regions()
    regions.small_s, regions.whole_s = 1.0, price - KEEPING_S
    return regions


def read(
    regions: Regions, offset: int, now_s: float, *, runs: int = 1, file_bytes: int = HUGE
) -> bool:
    """One small get; True if its region was bought for it."""
    regions.rent(FILE, offset, now_s)
    due = regions.is_due(FILE, offset, REGION_BYTES, runs, file_bytes)
    if due:
        regions.buy(FILE, offset, REGION_BYTES, runs, now_s)
    return due


def test_a_region_is_bought_once_its_rent_has_reached_the_price() -> None:
    regions = market(5)
    offsets = [100, 4096, 900 * KIB, 8192]
    assert not any(read(regions, 3 * MIB + offset, 0.0) for offset in offsets)
    assert not read(regions, 4 * MIB, 0.0), "another region"
    assert read(regions, 3 * MIB, 0.0)


def test_each_run_of_a_region_in_pieces_costs_a_get() -> None:
    regions = market(5)
    bought = [read(regions, 0, 0.0, runs=4) for _ in range(8)]
    assert bought == [False] * 7 + [True]


def test_a_short_region_costs_less_but_never_less_than_a_get() -> None:
    regions = market(9)
    regions.rent(FILE, 0, 0.0)
    assert not regions.is_due(FILE, 0, REGION_BYTES // 8, 1, HUGE)
    regions.rent(FILE, 0, 0.0)
    assert regions.is_due(FILE, 0, REGION_BYTES // 8, 1, HUGE)


def test_whoever_reads_all_over_a_file_gets_its_regions_at_once() -> None:
    regions = market(4)
    count = 64
    for number in range(count - 1):
        assert not read(regions, number * MIB, 0.0, file_bytes=count * MIB)
    for number in range(count):
        assert read(regions, number * MIB, 0.0, file_bytes=count * MIB)


def test_where_regions_are_dear_reading_all_over_a_file_is_no_reason() -> None:
    regions = market(12)
    for turn in range(11 * 64):
        assert not read(regions, turn % 64 * MIB, 0.0, file_bytes=64 * MIB)
    assert read(regions, 0, 0.0, file_bytes=64 * MIB), "its own rent is reason enough"


def test_many_pieces_wait_for_more_reads_even_then() -> None:
    regions = market(4)
    for number in range(64):
        read(regions, number * MIB, 0.0, file_bytes=65 * MIB)
    assert not read(regions, 64 * MIB, 0.0, runs=2 * RUNS_AT_ONCE, file_bytes=65 * MIB)
    assert read(regions, 64 * MIB, 0.0, runs=2 * RUNS_AT_ONCE, file_bytes=65 * MIB)


def test_never_more_than_thrice_the_best_choice_in_hindsight() -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    for _ in range(200):
        price = random.uniform(1, 12)
        count = random.randrange(1, 60)
        regions = market(price)
        reads = [0] * count
        held: set[int] = set()
        paid = 0.0
        for _ in range(random.randrange(1, 800)):
            number = min(int(random.expovariate(3 / count)), count - 1)
            reads[number] += 1
            if number in held:
                continue
            paid += 1
            if read(regions, number * MIB, 0.0, file_bytes=count * MIB):
                held.add(number)
                paid += price
        best = sum(min(n, price) for n in reads)
        assert paid <= 3 * best + price + 1, (price, count, paid, best)


def test_what_is_dropped_before_it_was_of_use_makes_everything_dearer_for_a_while() -> None:
    regions = market(2)
    held: set[int] = set()
    bought = 0
    for turn in range(4_000):
        number = turn % 100  # Round and round, with room for ten.
        if read(regions, number * MIB, turn / 1_000):
            bought += 1
            held.add(number)
    assert 0 < bought < 400, "a tenth of what renting costs, and each round less"
    assert regions.dear > 2
    read(regions, 200 * MIB, 4.0 + REGRET_WITHIN_S + 1)
    assert regions.dear == 1.0, "forgotten"


def test_reads_that_were_on_their_way_are_no_regret() -> None:
    regions = market(1)
    assert read(regions, 0, 0.0)
    for _ in range(10):
        regions.rent(FILE, 0, GRACE_S)
    assert regions.dear == 1.0
    regions.rent(FILE, 0, GRACE_S + 0.1)
    assert regions.dear > 1.0
    dear = regions.dear
    regions.rent(FILE, 0, GRACE_S + 0.2)
    assert regions.dear == dear, "one purchase is regretted once"


def test_what_was_bought_long_ago_is_bought_anew_like_anything() -> None:
    regions = market(3)
    assert [read(regions, 0, 0.0) for _ in range(3)] == [False, False, True]
    later_s = REGRET_WITHIN_S + 1
    assert [read(regions, 0, later_s) for _ in range(3)] == [False, False, True]
    assert regions.dear == 1.0


def test_stalls_do_not_move_the_usual_cost() -> None:
    regions = Regions()
    for turn in range(2_000):
        regions.saw_small(0.5 if turn % 5 == 0 else 0.001)
        regions.saw_whole(REGION_BYTES // 2, 0.5 if turn % 3 == 0 else 0.002)
    assert 0.000_8 < regions.small_s < 0.001_5
    assert 0.003 < regions.whole_s < 0.006


def test_memory_is_bounded() -> None:
    regions = market(1_000)
    for number in range(MAX_REGIONS + 100):
        read(regions, number * MIB, 0.0)
    for number in range(MAX_FILES + 100):
        regions.rent(InodeNumber(number), 0, 0.0)
    assert len(regions) == MAX_REGIONS
    assert len(regions._files) == MAX_FILES
    assert regions.dear <= MAX_DEAR

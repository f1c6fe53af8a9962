"""Usable space."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rainfs.array.space import Room, distinct_rows, space_of
from rainfs.model import mirror, reed_solomon


def fits(rooms: list[int], width: int, x: int) -> bool:
    return sum(min(room, x) for room in rooms) >= width * x


@given(st.lists(st.integers(0, 1000), max_size=12), st.integers(1, 8))
def test_rows_are_as_long_as_distinct_nodes_allow(rooms: list[int], width: int) -> None:
    x = distinct_rows(rooms, width)
    if len(rooms) < width:
        assert x == 0
        return
    assert fits(rooms, width, x)
    assert not fits(rooms, width, x + 1) or width > sum(room > x for room in rooms) == 0


def rooms_of(capacities: list[int], used: int = 0) -> list[Room]:
    return [Room(capacity, used, capacity - used) for capacity in capacities]


def test_six_equal_nodes_hold_four_sixths() -> None:
    space = space_of(rooms_of([600] * 6, used=60), reed_solomon(4, 2))
    assert (space.raw_bytes, space.used_raw_bytes) == (3600, 360)
    assert (space.usable_bytes, space.used_bytes, space.free_bytes) == (2400, 240, 2160)


def test_one_huge_node_does_not_count_beyond_its_share() -> None:
    space = space_of(rooms_of([100] * 5 + [10_000]), reed_solomon(4, 2))
    assert space.usable_bytes == 400


def test_four_nodes_left_count_as_two_plus_two() -> None:
    assert space_of(rooms_of([100] * 4), reed_solomon(4, 2)).usable_bytes == 200


def test_two_nodes_left_count_as_two_copies() -> None:
    assert space_of(rooms_of([100] * 2), reed_solomon(4, 2)).usable_bytes == 100


def test_a_full_node_is_left_out_of_what_is_free() -> None:
    rooms = [*rooms_of([100] * 5), Room(100, 100, 0)]
    assert space_of(rooms, reed_solomon(4, 2)).free_bytes == 300


def test_nodes_without_room_leave_nothing_free() -> None:
    rooms = [*rooms_of([100] * 2), *[Room(100, 100, 0)] * 4]
    assert space_of(rooms, reed_solomon(4, 2)).free_bytes == 0


def test_tiny_nodes_do_not_make_the_array_small() -> None:
    rooms = [*rooms_of([10] * 3), *rooms_of([1000] * 3)]
    assert space_of(rooms, reed_solomon(4, 2)).usable_bytes == 1010
    almost_full = [*rooms_of([100] * 5), Room(100, 99, 1)]
    assert space_of(almost_full, reed_solomon(4, 2)).free_bytes == 300


def test_no_nodes_no_space() -> None:
    space = space_of([], mirror(2))
    assert (space.usable_bytes, space.free_bytes, space.used_bytes) == (0, 0, 0)

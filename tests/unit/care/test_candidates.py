"""What is worth rewriting, and when: no waiting without end, no work for nothing."""

from __future__ import annotations

from rainfs.care.candidates import (
    FOLD_AGE_S,
    FOLD_WAIT_S,
    PATIENCE_S,
    RETRY_S,
    Candidates,
    Choice,
)
from rainfs.meta.records import StripeState
from rainfs.model import KIB, MIB, Layout, LayoutId, NodeNumber, StripeId, mirror, reed_solomon

LAYOUT = Layout(LayoutId(1), reed_solomon(4, 2))
FULL = LAYOUT.stripe_bytes


def state(live: int, born: int, nodes: int = 6) -> StripeState:
    return StripeState(tuple(NodeNumber(n) for n in range(1, nodes + 1)), live, born)


def ids(choice: Choice | None) -> list[int]:
    return [] if choice is None else [int(stripe) for stripe in choice.stripes]


def test_a_stripe_is_chosen_once_it_is_mostly_dead() -> None:
    candidates = Candidates(LAYOUT)
    candidates.saw(StripeId(1), state(FULL // 2, FULL), 0)
    candidates.saw(StripeId(2), state(FULL // 2 - 1, FULL), 0)
    assert ids(candidates.choose(0, at_once=False, foldable=True)) == [2]
    assert candidates.choose(0, at_once=True, foldable=True) is None


def test_the_emptiest_come_first_and_fill_one_stripe() -> None:
    candidates = Candidates(LAYOUT)
    for number, percent in enumerate([40, 10, 45, 30, 20], start=1):
        candidates.saw(StripeId(number), state(FULL * percent // 100, FULL), 0)
    assert ids(candidates.choose(0, at_once=True, foldable=True)) == [2, 5, 4, 1]
    assert ids(candidates.choose(0, at_once=True, foldable=True)) == [3]


def test_little_garbage_waits_for_more_but_not_for_ever() -> None:
    candidates = Candidates(LAYOUT)
    candidates.saw(StripeId(1), state(10 * KIB, 100 * KIB), 5)
    assert candidates.choose(5 + PATIENCE_S - 1, at_once=False, foldable=True) is None
    assert ids(candidates.choose(5 + PATIENCE_S, at_once=False, foldable=True)) == [1]


def test_the_share_that_counts_as_dead_is_configurable() -> None:
    candidates = Candidates(LAYOUT, dead_below=0.8)
    candidates.saw(StripeId(1), state(FULL * 3 // 4, FULL), 0)
    assert ids(candidates.choose(0, at_once=True, foldable=True)) == [1]


def test_small_stripes_are_folded_when_there_are_many_of_some_age() -> None:
    candidates = Candidates(LAYOUT)
    for number in range(40):
        candidates.saw(StripeId(number), state(60 * KIB, 60 * KIB, nodes=3), 0)
    assert candidates.choose(FOLD_AGE_S - 1, at_once=False, foldable=True) is None
    assert candidates.choose(FOLD_AGE_S, at_once=False, foldable=False) is None
    assert len(ids(candidates.choose(FOLD_AGE_S, at_once=False, foldable=True))) == 40


def test_few_small_stripes_are_folded_when_they_are_old() -> None:
    candidates = Candidates(LAYOUT)
    for number in range(5):
        candidates.saw(StripeId(number), state(60 * KIB, 60 * KIB, nodes=3), 0)
    assert candidates.choose(FOLD_WAIT_S - 1, at_once=False, foldable=True) is None
    assert len(ids(candidates.choose(FOLD_WAIT_S, at_once=False, foldable=True))) == 5


def test_what_would_come_out_as_a_mirror_again_is_not_folded() -> None:
    candidates = Candidates(LAYOUT)
    candidates.saw(StripeId(1), state(30 * KIB, 30 * KIB, nodes=3), 0)
    candidates.saw(StripeId(2), state(34 * KIB, 34 * KIB, nodes=3), 0)
    assert candidates.choose(1e9, at_once=True, foldable=True) is None
    candidates.saw(StripeId(3), state(1, 1, nodes=3), 0)
    assert len(ids(candidates.choose(1e9, at_once=True, foldable=True))) == 3


def test_stripes_of_a_mirrored_layout_are_never_folded() -> None:
    candidates = Candidates(Layout(LayoutId(1), mirror(3)))
    for number in range(100):
        candidates.saw(StripeId(number), state(MIB, MIB, nodes=3), 0)
    assert candidates.choose(1e9, at_once=True, foldable=True) is None


def test_a_small_stripe_that_died_meanwhile_is_counted_once() -> None:
    candidates = Candidates(LAYOUT)
    candidates.saw(StripeId(1), state(60 * KIB, 60 * KIB, nodes=3), 0)
    candidates.saw(StripeId(1), state(10 * KIB, 60 * KIB, nodes=3), 9)
    assert candidates.live_bytes == 10 * KIB
    assert ids(candidates.choose(PATIENCE_S, at_once=False, foldable=True)) == [1]


def test_what_was_tried_is_left_alone_for_a_while() -> None:
    candidates = Candidates(LAYOUT)
    for now in (0.0, 1.0, RETRY_S - 1):
        candidates.saw(StripeId(1), state(1, FULL), now)
        assert bool(candidates.choose(now, at_once=True, foldable=True)) == (now == 0)
    assert candidates.choose(RETRY_S, at_once=True, foldable=True) is None
    candidates.saw(StripeId(1), state(1, FULL), RETRY_S)
    assert ids(candidates.choose(RETRY_S, at_once=True, foldable=True)) == [1]

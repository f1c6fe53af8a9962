"""Targets: every case has one, and a run that misses it says so."""

from __future__ import annotations

from bench.cases import CASES, Scale
from bench.results import Measured, Results
from bench.targets import CEILING, OURS, OURS_WRITEBACK, TARGETS, target_rows, target_table


def _run(case: str, **values: float) -> Results:
    names = {"ours": OURS, "writeback": OURS_WRITEBACK, "gluster": "glusterfs 4+2"}
    names |= {"moose": "moosefs x3", "redis": "juicefs redis", "null": CEILING}
    results = Results(Scale(1, 1), [names[key] for key in values])
    for key, value in values.items():
        results.add(names[key], case, 0, Measured(value, 0.0))
    return results


def test_every_case_has_a_target() -> None:
    assert list(TARGETS) == list(CASES)


def test_the_better_peer_counts() -> None:
    [row] = target_rows(_run("small_rename", ours=240, gluster=20, moose=100, redis=120, null=480))
    assert row == ["rename", "2.40x", "1.2x", "**2.00x**", "2.5x", "50%"]


def test_writeback_has_rows_of_its_own_where_it_has_targets() -> None:
    results = _run("untar", ours=130, writeback=200, gluster=100)
    assert target_rows(results) == [
        ["untar + sync", "1.30x", "1.3x", "-", "1.3x", "-"],
        ["untar + sync, `-o writeback`", "**2.00x**", "2.5x", "-", "2.5x", "-"],
    ]
    assert len(target_rows(_run("small_rename", ours=1, writeback=1))) == 1


def test_what_was_not_measured_has_no_row() -> None:
    assert target_rows(_run("untar", moose=3)) == []
    assert target_table(_run("untar", moose=3)).count("\n") == 2

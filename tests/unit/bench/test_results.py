"""Results of benchmark runs: medians, ratios paired by round, and what is shown of them."""

import json
from xml.etree import ElementTree

import click
import pytest

from bench.cases import CASES, Scale
from bench.report import markdown, svg
from bench.results import Measured, Results
from bench.run import wanted_cases


def _results(**values: list[float | None]) -> Results:
    """Return results of the case `untar`, one number (or None for a failure) a round."""
    results = Results(Scale(1, 1), list(values))
    for subject, rounds in values.items():
        for number, value in enumerate(rounds):
            if value is None:
                results.fail(subject, "untar", "it broke")
            else:
                results.add(subject, "untar", number, Measured(value, 0.5))
    return results


def test_ratio_is_paired_within_rounds() -> None:
    # The machine was ten times slower in the second round: for both alike.
    results = _results(ours=[200.0, 20.0, 220.0], theirs=[100.0, 10.0, 100.0])
    assert results.ratio("untar", "ours", ["theirs"]) == 2.0


def test_ratio_is_against_the_best_of_several() -> None:
    results = _results(ours=[300.0], slow=[100.0], fast=[150.0])
    assert results.ratio("untar", "ours", ["slow", "fast"]) == 2.0


def test_a_round_that_failed_is_left_out_of_the_ratio() -> None:
    results = _results(ours=[100.0, 400.0], theirs=[None, 200.0])
    assert results.ratio("untar", "ours", ["theirs"]) == 2.0


def test_ratio_is_unknown_without_a_common_round() -> None:
    assert _results(ours=[1.0], theirs=[None]).ratio("untar", "ours", ["theirs"]) is None


def test_json_holds_medians_rounds_and_failures() -> None:
    shown = json.loads(json.dumps(_results(ours=[1.0, 3.0, 2.0], theirs=[None]).as_json()))
    assert shown["medians"]["ours"] == {"untar": 2.0}
    assert shown["rounds"]["ours"]["untar"] == [[1.0, 0.5], [3.0, 0.5], [2.0, 0.5]]
    assert shown["failures"] == {"theirs": {"untar": "it broke"}}


def test_table_names_values_ratios_and_failures() -> None:
    table = markdown(_results(ours=[300.0], theirs=[100.0], broken=[None]), "ours")
    assert "| untar + sync, files/s | 300 | 100 | failed | 3.00x | - |" in table


def test_chart_is_well_formed_and_names_every_subject() -> None:
    chart = svg(_results(**{"a & b": [3.0], "none": [None]}))
    texts = [element.text for element in ElementTree.fromstring(chart).iter() if element.text]
    assert "a & b" in texts
    assert "not measured" in texts


def test_cases_are_chosen_by_name_and_unknown_ones_refused() -> None:
    assert wanted_cases("untar,small_stat_cold") == {"untar", "small_stat_cold"}
    assert wanted_cases("") == set(CASES)
    with pytest.raises(click.UsageError, match="no such case: nonsense"):
        wanted_cases("nonsense")

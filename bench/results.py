"""The numbers of one run: every subject, case and round, with medians and ratios.

Invariants: a round's number is kept under its round, so that two subjects are compared within the
same round even where one of them failed in another.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.cases import Scale


@dataclass(frozen=True, slots=True)
class Measured:
    """One case on one subject in one round; `cpu_s` is what the subject's own processes used."""

    value: float
    cpu_s: float


@dataclass(slots=True)
class Results:
    """Every number of a run, by subject, case and round."""

    scale: Scale
    subjects: list[str]
    measured: dict[tuple[str, str], dict[int, Measured]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, subject: str, case: str, round_number: int, measured: Measured) -> None:
        self.measured.setdefault((subject, case), {})[round_number] = measured

    def fail(self, subject: str, case: str, reason: str) -> None:
        self.failures[subject, case] = reason

    def median(self, subject: str, case: str) -> float | None:
        found = self.measured.get((subject, case))
        return statistics.median(each.value for each in found.values()) if found else None

    def ratio(self, case: str, subject: str, others: Iterable[str]) -> float | None:
        """Return the median over rounds of `subject` / best of `others` in the same round.

        Pairing takes out what else the machine did in a round; a ratio of medians would not.
        """
        mine = self.measured.get((subject, case), {})
        theirs = [self.measured.get((other, case), {}) for other in others]
        ratios = []
        for round_number, measured in mine.items():
            best = max(
                (each[round_number].value for each in theirs if round_number in each), default=0
            )
            if best > 0:
                ratios.append(measured.value / best)
        return statistics.median(ratios) if ratios else None

    def as_json(self) -> dict[str, object]:
        """Return medians, and under `rounds` [value, cpu_s] of every round, for a JSON file."""
        medians: dict[str, dict[str, float]] = {subject: {} for subject in self.subjects}
        rounds: dict[str, dict[str, list[list[float]]]] = {subject: {} for subject in self.subjects}
        failures: dict[str, dict[str, str]] = {}
        for (subject, case), found in self.measured.items():
            medians[subject][case] = round(self.median(subject, case) or 0.0, 1)
            rounds[subject][case] = [
                [round(each.value, 1), round(each.cpu_s, 2)] for each in found.values()
            ]
        for (subject, case), reason in self.failures.items():
            failures.setdefault(subject, {})[case] = reason
        return {
            "scale": {"file_mib": self.scale.file_mib, "small_files": self.scale.small_files},
            "subjects": self.subjects,
            "medians": medians,
            "rounds": rounds,
            "failures": failures,
        }

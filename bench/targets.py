"""What rainfs is to reach on each case, as ratios within one run, and whether a run reached it.

Owns the figures. A target compares with the better of several peers: those that survive the loss of
two machines as 4+2 does, and those that keep one copy on a local disk. The ceiling is the pyfuse3
file system that stores nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.cases import CASES
from bench.results import Results

OURS = "rainfs"
OURS_WRITEBACK = "rainfs writeback"
REDUNDANT = ("glusterfs 4+2", "moosefs x3")
ONE_COPY = ("juicefs sqlite", "juicefs redis")
CEILING = "null pyfuse3"


@dataclass(frozen=True, slots=True)
class Target:
    """Least ratios with default mount options, and with `-o writeback` where that has its own."""

    redundant: float
    one_copy: float
    redundant_writeback: float | None = None
    one_copy_writeback: float | None = None


TARGETS: dict[str, Target] = {
    "seq_write": Target(4.0, 0.9),
    "seq_read_cold": Target(1.5, 1.0),
    "rand_read_4k_cold": Target(1.8, 1.3),
    "rand_write_4k": Target(1.5, 5.0, 2.5, 8.0),
    "sync_write_4k": Target(1.2, 0.9),
    "rand_rw_4k_8jobs": Target(2.0, 15.0),
    "small_create": Target(3.0, 2.5),
    "small_stat_cold": Target(4.0, 1.0),
    "small_read_cold": Target(1.2, 1.3),
    "small_rename": Target(1.2, 2.5),
    "small_delete": Target(0.9, 3.5),
    "untar": Target(1.3, 1.3, 2.5, 2.5),
}

HEADINGS = (
    "work",
    "/ better of GlusterFS and MooseFS",
    "target",
    "/ better JuiceFS",
    "target",
    "of null pyfuse3",
)


def _against(
    results: Results, case: str, subject: str, others: Iterable[str], target: float
) -> list[str]:
    ratio = results.ratio(case, subject, others)
    if ratio is None:
        return ["-", f"{target:g}x"]
    return [f"{ratio:.2f}x" if ratio >= target else f"**{ratio:.2f}x**", f"{target:g}x"]


def _row(
    results: Results, case: str, subject: str, title: str, redundant: float, one_copy: float
) -> list[str]:
    share = results.ratio(case, subject, [CEILING])
    return [
        title,
        *_against(results, case, subject, REDUNDANT, redundant),
        *_against(results, case, subject, ONE_COPY, one_copy),
        "-" if share is None else f"{share:.0%}",
    ]


def target_rows(results: Results) -> list[list[str]]:
    """Return a row for each case that was measured; ratios that miss their target are bold."""
    rows = []
    for name, target in TARGETS.items():
        title = CASES[name].title
        if results.median(OURS, name) is not None:
            rows.append(_row(results, name, OURS, title, target.redundant, target.one_copy))
        redundant, one_copy = target.redundant_writeback, target.one_copy_writeback
        if redundant is None or one_copy is None or results.median(OURS_WRITEBACK, name) is None:
            continue
        title = f"{title}, `-o writeback`"
        rows.append(_row(results, name, OURS_WRITEBACK, title, redundant, one_copy))
    return rows


def target_table(results: Results) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- |" + " ---: |" * (len(HEADINGS) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in target_rows(results)]
    return "\n".join(lines) + "\n"

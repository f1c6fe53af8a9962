"""Turn a run's results into a table for the terminal, one for a README, and a bar chart.

Owns presentation only. Numbers are medians over rounds; ratios are medians of per-round ratios.
"""

from collections.abc import Sequence
from html import escape

from rich.console import Console
from rich.table import Table

from bench.cases import CASES
from bench.results import Results

BAR_HEIGHT_PX = 13
ROW_GAP_PX = 10
TITLE_HEIGHT_PX = 16
LABEL_WIDTH_PX = 120
BAR_WIDTH_PX = 420
VALUE_WIDTH_PX = 110
PALETTE = ("#1b6ca8", "#c8553d", "#588157", "#8d6a9f", "#b08900", "#6c757d", "#2a9d8f", "#bc6c25")


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _rows(results: Results, ours: str | None) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: every subject's median, then ours against each of the others."""
    subjects = results.subjects
    others = [name for name in subjects if name != ours] if ours in subjects else []
    headings = ["work", *subjects, *(f"{ours} / {name}" for name in others)]
    rows = []
    for case in CASES.values():
        if not any(results.median(name, case.name) is not None for name in subjects):
            continue
        cells = [f"{case.title}, {case.unit}"]
        cells += [
            "failed"
            if (name, case.name) in results.failures
            else _figure(results.median(name, case.name))
            for name in subjects
        ]
        if ours is not None:
            cells += [_ratio(results.ratio(case.name, ours, [name])) for name in others]
        rows.append(cells)
    return headings, rows


def print_table(results: Results, ours: str | None = None) -> None:
    headings, rows = _rows(results, ours)
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    Console(stderr=True, width=max(100, 40 + 14 * len(headings))).print(table)


def markdown(results: Results, ours: str | None = None) -> str:
    headings, rows = _rows(results, ours)
    lines = ["| " + " | ".join(headings) + " |"]
    lines.append("| --- |" + " ---: |" * (len(headings) - 1))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _bars(results: Results, name: str, subjects: Sequence[str], top_px: int) -> list[str]:
    """Draw one case: a bar for each subject, as long as its share of the row's best."""
    medians = [results.median(subject, name) for subject in subjects]
    best = max(value for value in medians if value is not None)
    parts = []
    for number, (subject, value) in enumerate(zip(subjects, medians, strict=True)):
        y = top_px + TITLE_HEIGHT_PX + number * BAR_HEIGHT_PX
        text_y = y + BAR_HEIGHT_PX - 3
        parts.append(
            f'<text x="{LABEL_WIDTH_PX - 6}" y="{text_y}" text-anchor="end">'
            f"{escape(subject)}</text>"
        )
        if value is None:
            parts.append(f'<text x="{LABEL_WIDTH_PX + 4}" y="{text_y}">not measured</text>')
            continue
        width = max(1.0, BAR_WIDTH_PX * value / best) if best else 1.0
        colour = PALETTE[number % len(PALETTE)]
        parts.append(
            f'<rect x="{LABEL_WIDTH_PX}" y="{y + 1}" width="{width:.1f}" '
            f'height="{BAR_HEIGHT_PX - 2}" fill="{colour}"/>'
        )
        text_x = LABEL_WIDTH_PX + width + 4
        parts.append(f'<text x="{text_x:.1f}" y="{text_y}">{_figure(value)}</text>')
    return parts


def svg(results: Results) -> str:
    """Return a bar chart of every case as an SVG document; in each row, longer is better."""
    subjects = results.subjects
    cases = [
        case
        for case in CASES.values()
        if any(results.median(name, case.name) is not None for name in subjects)
    ]
    row_px = TITLE_HEIGHT_PX + BAR_HEIGHT_PX * len(subjects) + ROW_GAP_PX
    width = LABEL_WIDTH_PX + BAR_WIDTH_PX + VALUE_WIDTH_PX
    height = row_px * len(cases) + ROW_GAP_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, case in enumerate(cases):
        top_px = ROW_GAP_PX + number * row_px
        title = escape(f"{case.title}, {case.unit}")
        parts.append(f'<text x="4" y="{top_px + 11}" font-weight="bold">{title}</text>')
        parts += _bars(results, case.name, subjects, top_px)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"

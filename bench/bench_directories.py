"""How do large directories behave: do they list fast when cold, do they grow at an even cost?

    python -m bench.bench_directories DIR [--files N] [--directories N] [--chill COMMAND]

Creates empty files in one directory and says what one costs while it grows: at 1,000 files, at ten
times as many, and so on up to `--files`. Lists it cold (`ls -f`, `ls -l`), then makes as many files
spread over `--directories` directories, and walks those cold (`find`). Dropping the kernel's caches
needs root; `--chill` (a remount, say) empties those of the file system as well. Everything is made
below DIR in a directory of its own, which is removed at the end, and that is timed, too.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import click

from bench.cases import DROP_CACHES, note

FIRST_WINDOW = 1000
"""Files whose creation is timed at each size."""

GROWTH = 10
LIST_DEADLINE_S = 600.0


def _create(parent: str, start: int, stop: int) -> float:
    """Create empty files; seconds for one."""
    began = time.monotonic()
    for number in range(start, stop):
        os.close(os.open(f"{parent}/f{number}", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))
    return (time.monotonic() - began) / (stop - start)


def growth_points(files: int) -> list[int]:
    """Return the sizes at which the cost of a file is measured; the last is `files`."""
    points = [FIRST_WINDOW]
    while points[-1] * GROWTH < files:
        points.append(points[-1] * GROWTH)
    return [*points, files] if files > points[-1] else points


def grow(parent: Path, files: int) -> dict[str, float]:
    """Fill a directory; microseconds for a file in the last thousand before each size."""
    parent.mkdir()
    costs: dict[str, float] = {}
    made = 0
    for point in growth_points(files):
        if point > made + FIRST_WINDOW:
            _create(str(parent), made, point - FIRST_WINDOW)
            made = point - FIRST_WINDOW
        costs[str(point)] = _create(str(parent), made, point) * 1e6
        made = point
        note(f"  {point} files: {costs[str(point)]:.0f} us for one")
    return costs


def spread(parent: Path, files: int, directories: int) -> None:
    """Make as many files in many directories."""
    parent.mkdir()
    for number in range(directories):
        below = parent / f"d{number}"
        below.mkdir()
        _create(str(below), 0, files // directories)


def timed(command: list[str], chill: Callable[[], None]) -> float:
    """Run a listing cold; its seconds."""
    os.sync()
    DROP_CACHES.write_text("3")
    chill()
    began = time.monotonic()
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(command, stdout=nowhere, check=True, timeout=LIST_DEADLINE_S)
    return time.monotonic() - began


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--files", default=100_000, show_default=True, type=click.IntRange(min=FIRST_WINDOW))
@click.option("--directories", default=1000, show_default=True, type=click.IntRange(min=1))
@click.option("--chill", default="", help="Command run before each listing, such as a remount.")
@click.option("--json", "json_path", default=None, type=click.Path(path_type=Path))
def main(directory: Path, files: int, directories: int, chill: str, json_path: Path | None) -> None:
    """Measure large directories below DIRECTORY."""

    def make_cold() -> None:
        if chill:
            subprocess.run(chill, shell=True, check=True)

    root = directory / "bench-directories"
    root.mkdir()
    results: dict[str, object] = {"files": files, "directories": directories}
    try:
        flat, tree = root / "flat", root / "tree"
        costs = grow(flat, files)
        results["create_us"] = costs
        results["last_over_first"] = costs[str(files)] / costs[str(FIRST_WINDOW)]
        results["ls_f_s"] = timed(["ls", "-f", str(flat)], make_cold)
        results["ls_l_s"] = timed(["ls", "-l", str(flat)], make_cold)
        spread(tree, files, directories)
        results["find_s"] = timed(["find", str(tree), "-type", "f"], make_cold)
    finally:
        began = time.monotonic()
        shutil.rmtree(root)
        results["remove_s"] = time.monotonic() - began
    text = json.dumps(results, indent=1)
    if json_path is None:
        print(text)
    else:
        json_path.write_text(text + "\n")
    for key in ("last_over_first", "ls_f_s", "ls_l_s", "find_s", "remove_s"):
        note(f"{key:16} {results[key]:.2f}")


if __name__ == "__main__":
    main()

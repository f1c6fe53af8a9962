"""Run the cases on directories that are there already.

    python -m bench.run DIR... [--rounds N] [--size MIB] [--files N] [--only CASE,...] [--json FILE]

Prints a table on stderr and the results as JSON on stdout (or into FILE). Several directories are
taken in turn within one run. Dropping the kernel's caches needs root.
"""

import json
import subprocess
import sys
from pathlib import Path

import click

from bench.cases import CASES, Scale
from bench.report import print_table
from bench.rounds import Subject, run_rounds


def wanted_cases(only: str) -> frozenset[str]:
    """Parse a comma-separated list of case names; empty means all of them."""
    names = frozenset(filter(None, only.split(","))) or frozenset(CASES)
    if unknown := names - frozenset(CASES):
        raise click.UsageError(f"no such case: {', '.join(sorted(unknown))}; of {', '.join(CASES)}")
    return names


def _chiller(command: str) -> None:
    if command:
        subprocess.run(command, shell=True, check=True)


@click.command()
@click.argument(
    "directories", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--size", default=512, show_default=True, help="MiB of the large file.")
@click.option("--files", default=1000, show_default=True, help="How many small files.")
@click.option("--only", default="", help="Cases to run, comma-separated; all by default.")
@click.option("--chill", default="", help="Command run before each cold case, such as a remount.")
@click.option("--json", "json_path", default=None, type=click.Path(path_type=Path))
def main(
    directories: tuple[Path, ...],
    rounds: int,
    size: int,
    files: int,
    only: str,
    chill: str,
    json_path: Path | None,
) -> None:
    """Measure every DIRECTORY on the same work, in turn."""
    subjects = [
        Subject(str(directory), directory, chill=lambda: _chiller(chill))
        for directory in directories
    ]
    results = run_rounds(subjects, Scale(size, files), rounds, wanted_cases(only))
    print_table(results)
    text = json.dumps(results.as_json(), indent=1)
    if json_path is None:
        print(text)
    else:
        json_path.write_text(text + "\n")
    sys.exit(1 if results.failures else 0)


if __name__ == "__main__":
    main()

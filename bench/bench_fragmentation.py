"""Does a file that is overwritten at random stay as cheap to overwrite, and readable in order?

    python -m bench.bench_fragmentation [--size MIB] [--writes N] [--parts N] [--json FILE]

Overwrites random pages of 4 KiB in equal parts and tells each part's time and processor time for a
write: flat says that the last part costs what the first did.  Reads the file in order, cold: before
the overwrites, after them, and once `rainfs gc` has compacted.
"""

import json
import random
from pathlib import Path

import click

from bench.overwrites import gc, make_file, overwrite, processor_s, read_cold, volume


@click.command()
@click.option("--size", default=1024, show_default=True, help="MiB of the file.")
@click.option("--writes", default=100_000, show_default=True, help="Overwrites in all.")
@click.option("--parts", default=10, show_default=True, help="In so many parts.")
@click.option("--options", default="", help="Mount options.")
@click.option("--base", default=None, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "json_path", default=None, type=click.Path(path_type=Path))
def main(
    size: int, writes: int, parts: int, options: str, base: Path | None, json_path: Path | None
) -> None:
    """Measure one file."""
    generator = random.Random(3)
    costs = []
    with volume(options, base) as (running, below):
        path = running.directory / "file"
        make_file(path, size)
        whole = read_cold(running, path)
        for _ in range(parts):
            used = processor_s(below)
            seconds = overwrite(path, writes // parts, generator, fsync_each=False)
            used = processor_s(below) - used
            costs.append((seconds / (writes // parts) * 1e6, used / (writes // parts) * 1e6))
        fragmented = read_cold(running, path)
        said = gc(running.directory)
        compacted = read_cold(running, path)
    results = {
        "size MiB": size,
        "writes": writes,
        "us a write, by part": [round(wall) for wall, _ in costs],
        "processor us a write, by part": [round(used) for _, used in costs],
        "last / first": round(costs[-1][0] / costs[0][0], 2),
        "last / first, processor": round(costs[-1][1] / costs[0][1], 2),
        "read MiB/s": {
            "whole": round(whole, 1),
            "fragmented": round(fragmented, 1),
            "compacted": round(compacted, 1),
        },
        "whole / compacted": round(whole / compacted, 2),
        "gc": said,
    }
    for name, found in results.items():
        click.echo(f"{name}: {found}")
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

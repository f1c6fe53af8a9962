"""How many bytes do the nodes write for each byte that a program overwrites at random?

    python -m bench.bench_amplification [--size MIB] [--writes N] [--fsyncs N] [--json FILE]

Two cases on volumes of their own: a sustained stream of random 4 KiB overwrites, and overwrites
with an fsync each.  Told three times: when the last write was durable, with what compaction had
done by then in the background; once the nodes have written nothing for REST_S, when garbage is
compacted and small stripes are folded; and after `rainfs gc`, which also puts files in many pieces
in order: a price that comes once, not with every write.  "/ code" is the ratio to what the code
itself costs, (k+m)/k.
"""

import json
import random
import time
from pathlib import Path

import click

from bench.overwrites import (
    OVERHEAD,
    PAGE_BYTES,
    gc,
    make_file,
    node_pids,
    overwrite,
    volume,
    written_bytes,
)

REST_S = 12.0
LONGEST_REST_S = 120.0


def await_rest(below: Path) -> None:
    """Return once the nodes of a volume have written nothing for a while."""
    until = time.monotonic() + LONGEST_REST_S
    quiet_since, seen = time.monotonic(), written_bytes(below)
    while time.monotonic() < min(until, quiet_since + REST_S):
        time.sleep(0.5)
        if (now := written_bytes(below)) != seen:
            quiet_since, seen = time.monotonic(), now


def measure(
    base: Path | None, options: str, size_mib: int, writes: int, *, fsync_each: bool
) -> dict[str, float | str]:
    """Run one case; returns amplifications as multiples of user bytes."""
    with volume(options, base) as (running, below):
        path = running.directory / "file"
        make_file(path, size_mib)
        assert node_pids(below), "no node daemons found"
        before = written_bytes(below)
        seconds = overwrite(path, writes, random.Random(2), fsync_each=fsync_each)
        durable = written_bytes(below)
        await_rest(below)
        rested = written_bytes(below)
        said = gc(running.directory)
        compacted = written_bytes(below)
    user = writes * PAGE_BYTES
    return {
        "writes": writes,
        "writes/s": round(writes / seconds, 1),
        "durable": round((durable - before) / user, 2),
        "durable / code": round((durable - before) / user / OVERHEAD, 2),
        "rested": round((rested - before) / user, 2),
        "rested / code": round((rested - before) / user / OVERHEAD, 2),
        "compacted": round((compacted - before) / user, 2),
        "compacted / code": round((compacted - before) / user / OVERHEAD, 2),
        "gc": said,
    }


@click.command()
@click.option("--size", default=256, show_default=True, help="MiB of the file.")
@click.option("--writes", default=100_000, show_default=True, help="Overwrites without fsync.")
@click.option("--fsyncs", default=10_000, show_default=True, help="Overwrites with an fsync each.")
@click.option("--options", default="", help="Mount options.")
@click.option("--base", default=None, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "json_path", default=None, type=click.Path(path_type=Path))
def main(
    size: int, writes: int, fsyncs: int, options: str, base: Path | None, json_path: Path | None
) -> None:
    """Measure both cases."""
    results = {}
    if writes:
        results["no fsync"] = measure(base, options, size, writes, fsync_each=False)
    if fsyncs:
        results["fsync each"] = measure(base, options, size, fsyncs, fsync_each=True)
    for name, found in results.items():
        click.echo(f"{name}: {found}")
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How fast is the kernel?  GiB of data a second on one core, for every variant this machine runs.

    python -m bench.bench_kernel [--seconds S] [--shard KIB,...] [--code K+M,...] [--json FILE]

Encode makes all parity shards; reconstruct makes up for the loss of m data shards (all of them when
k < m). Both count the k shards that are read. Every call goes through the codec as the array calls
it, Python included. ISA-L runs beside it where libisal.so.2 is installed; so do the pure-Python
fallback and reedsolo itself. The best of all repetitions counts: others use this machine too.

Prints a table on stderr and the results as JSON on stdout (or into FILE).
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import reedsolo
from rich.console import Console
from rich.table import Table

from bench import isal
from rainfs.checksum import crc32c, crc32c_pages
from rainfs.erasure.arithmetic import Arithmetic
from rainfs.erasure.codec import make_codec
from rainfs.erasure.fallback import PythonArithmetic
from rainfs.erasure.kernel import KernelArithmetic, running_variants
from rainfs.erasure.matrix import decode_matrix, parity_matrix
from rainfs.memory import page_buffer
from rainfs.model import KIB, mirror, reed_solomon

GIB = 1 << 30
MIN_REPETITIONS = 3
REEDSOLO_COLUMNS = 256
"""reedsolo codes column by column; this many tell its speed."""

Row = dict[str, str | int | float]


def gib_per_s(run: Callable[[], object], nbytes: int, seconds: float) -> float:
    """Return the best speed of `run`, which handles `nbytes` each time, within `seconds`."""
    run()
    best = float("inf")
    stop = time.perf_counter() + seconds
    repetitions = 0
    while repetitions < MIN_REPETITIONS or time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        repetitions += 1
    return nbytes / best / GIB


def random_shards(count: int, nbytes: int) -> list[memoryview]:
    """Return page-aligned shards of random bytes."""
    shards = [page_buffer(nbytes) for _ in range(count)]
    for shard in shards:
        shard[:] = os.urandom(nbytes)
    return shards


def code_rows(
    k: int, m: int, shard_bytes: int, arithmetics: list[Arithmetic], seconds: float
) -> Iterator[Row]:
    """Measure one geometry on every arithmetic, and on ISA-L."""
    data, parity = random_shards(k, shard_bytes), random_shards(m, shard_bytes)
    lost = list(range(min(k, m)))
    kept = [i for i in range(k + m) if i not in lost][:k]
    shards = dict(enumerate([*data, *parity]))
    spare = random_shards(len(lost), shard_bytes)
    about: Row = {"code": f"{k}+{m}", "shard_kib": shard_bytes // KIB}
    nbytes = k * shard_bytes
    for arithmetic in arithmetics:
        codec = make_codec(reed_solomon(k, m), arithmetic)
        present = {i: shards[i] for i in kept}
        missing = dict(zip(lost, spare, strict=True))
        yield {
            **about,
            "kernel": arithmetic.name,
            "encode": gib_per_s(partial(codec.encode, data, parity), nbytes, seconds),
            "reconstruct": gib_per_s(partial(codec.reconstruct, present, missing), nbytes, seconds),
        }
    library = isal.load()
    if library is not None:
        encode = isal.IsalProduct(library, parity_matrix(k, m), data, parity)
        decoding = decode_matrix(k, m, kept, lost)
        decode = isal.IsalProduct(library, decoding, [shards[i] for i in kept], spare)
        yield {
            **about,
            "kernel": encode.name,
            "encode": gib_per_s(encode, nbytes, seconds),
            "reconstruct": gib_per_s(decode, nbytes, seconds),
        }


def reedsolo_row(k: int, m: int) -> Row:
    """Measure reedsolo on a few columns."""
    codec = reedsolo.RSCodec(m, nsize=k + m)
    messages = [os.urandom(k) for _ in range(REEDSOLO_COLUMNS)]
    words = [bytearray(codec.encode(message)) for message in messages]
    lost = list(range(min(k, m)))
    for word in words:
        for index in lost:
            word[index] = 0
    nbytes = k * REEDSOLO_COLUMNS
    return {
        "code": f"{k}+{m}",
        "shard_kib": 0,
        "kernel": "reedsolo",
        "encode": gib_per_s(lambda: [codec.encode(each) for each in messages], nbytes, 0),
        "reconstruct": gib_per_s(
            lambda: [codec.decode(each, erase_pos=lost) for each in words], nbytes, 0
        ),
    }


def other_rows(shard_bytes: int, seconds: float) -> Iterator[Row]:
    """Measure what is not a matrix: copies and checksums."""
    (source, *copies) = random_shards(3, shard_bytes)
    variants = running_variants()
    codec = make_codec(mirror(3), KernelArithmetic(variants[0]) if variants else PythonArithmetic())
    for name, run in (
        ("mirror of 3", lambda: codec.encode([source], copies)),
        ("crc32c pages", lambda: crc32c_pages(source)),
        ("crc32c", lambda: crc32c(source)),
    ):
        speed = gib_per_s(run, shard_bytes, seconds)
        yield {"code": name, "shard_kib": shard_bytes // KIB, "kernel": "best", "encode": speed}


def print_table(rows: list[Row]) -> None:
    """Print the rows on stderr."""
    table = Table(title="GiB of data a second, one core")
    for name in ("code", "shard KiB", "kernel", "encode", "reconstruct"):
        table.add_column(name, justify="left" if name in {"code", "kernel"} else "right")
    for row in rows:
        speeds = [
            f"{speed:.3g}" if isinstance(speed := row.get(name), float) else ""
            for name in ("encode", "reconstruct")
        ]
        shard = str(row["shard_kib"] or "")
        table.add_row(str(row["code"]), shard, str(row["kernel"]), *speeds)
    Console(stderr=True).print(table)


@click.command()
@click.option("--seconds", default=0.3, show_default=True, help="Time for each figure.")
@click.option("--shard", "shards", default="4,64,1024", show_default=True, help="Sizes in KiB.")
@click.option("--code", "codes", default="2+1,4+2,8+3,10+4,16+4,20+8", show_default=True)
@click.option("--json", "json_path", default=None, type=click.Path(path_type=Path))
def main(seconds: float, shards: str, codes: str, json_path: Path | None) -> None:
    """Measure the kernel, its fallback and its peers."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    arithmetics: list[Arithmetic] = [KernelArithmetic(each) for each in running_variants()]
    rows: list[Row] = []
    for code in codes.split(","):
        k, m = map(int, code.split("+"))
        for size in map(int, shards.split(",")):
            rows += code_rows(k, m, size * KIB, [*arithmetics, PythonArithmetic()], seconds)
        rows.append(reedsolo_row(k, m))
    for size in map(int, shards.split(",")):
        rows += other_rows(size * KIB, seconds)
    print_table(rows)
    text = json.dumps({"unit": "GiB/s of data", "rows": rows}, indent=1)
    if json_path is None:
        print(text)
    else:
        json_path.write_text(text + "\n")


if __name__ == "__main__":
    main()

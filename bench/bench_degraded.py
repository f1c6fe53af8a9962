"""How much slower are reads with two of six nodes dead?

    python -m bench.bench_degraded [--file-mib N] [--rounds N] [--dead N] [--json FILE]     (root)

A file on a demo of its own (4+2 on six nodes) is read in sequence and at random with all nodes
alive, then with some killed, which are others in every round, and with them started again.  Each
read is cold for the kernel and begins right after the kill: what it costs to find out is part of
the number.  Reads of a lost shard need four others and the codec.

Prints every number on stderr, and the medians with their ratio as JSON on stdout (or into FILE).
"""

import json
import os
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import click

from bench.cases import (
    Case,
    Place,
    Scale,
    drop_caches,
    note,
    random_read,
    sequential_read,
    sequential_write,
)
from bench.peers.peer import Running
from bench.peers.processes import command, cpu_s, favour, wait_until
from bench.peers.rain import DATA, NODES, PARITY, RainFS

CASES = (
    Case("seq_read_cold", "sequential read 1 MiB", "MiB/s", sequential_read, True),
    Case("rand_read_4k_cold", "random read 4 KiB", "/s", random_read, True),
)
DIGITS = 3


class Demo:
    """The demo below `base`, whose nodes can be killed and started again."""

    def __init__(self, base: Path, running: Running) -> None:
        self._base = base
        self.running = running

    def kill(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            pid = int((self._base / "demo" / f"node-{number}" / "node.pid").read_text())
            os.kill(pid, signal.SIGKILL)

    def revive(self) -> None:
        """Start what was killed; returns once the mount sees all nodes."""
        rainfs = [sys.executable, "-m", "rainfs.cli.main"]
        command([*rainfs, "demo", "--dir", self._base / "demo", self.running.directory])
        wait_until(self._all_up, "the nodes")

    def _all_up(self) -> bool:
        rainfs = [sys.executable, "-m", "rainfs.cli.main"]
        said = json.loads(command([*rainfs, "status", "--json", self.running.directory]))
        return all(node["state"] == "up" for node in said["nodes"])


def measure(case: Case, place: Place, running: Running) -> float:
    drop_caches(place)
    before_s = cpu_s(running.pids())
    value = case.run(place)
    used_s = cpu_s(running.pids()) - before_s
    note(f"    {case.title:24}{value:>10.1f} {case.unit:6} cpu {used_s:.2f} s")
    return value


@click.command()
@click.option("--file-mib", default=512, show_default=True, help="Length of the file read.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--dead", default=PARITY, show_default=True, type=click.IntRange(1, PARITY))
@click.option("--niceness", default=0, show_default=True, help="Of all processes measured.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def main(file_mib: int, rounds: int, dead: int, niceness: int, json_path: Path | None) -> None:
    """Measure reads with all nodes alive and with some dead."""
    values: dict[str, dict[str, list[float]]] = {
        case.name: {"alive": [], "dead": []} for case in CASES
    }
    # So that the demo ends with us, however we end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    losses = list(combinations(range(1, NODES + 1), dead))
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rainfs-degraded-")))
        running = RainFS().start(base, stack)
        demo = Demo(base, running)
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
        directory = running.directory / "bench"
        directory.mkdir()
        place = Place(directory, base / "unused", Scale(file_mib), lambda: None)
        sequential_write(place)
        for number in range(rounds):
            lost = losses[number * len(losses) // rounds]
            for state in ("alive", "dead"):
                for case in CASES:
                    favour(running.pids(), niceness)
                    note(f"  round {number + 1}: {state}{f', nodes {lost}' * (state == 'dead')}")
                    if state == "dead":
                        demo.kill(lost)
                    values[case.name][state].append(measure(case, place, running))
                    if state == "dead":
                        demo.revive()
    report = {
        name: {
            "alive": round(statistics.median(found["alive"]), 1),
            "dead": round(statistics.median(found["dead"]), 1),
            "ratio": round(
                statistics.median(
                    dead / alive for alive, dead in zip(found["alive"], found["dead"], strict=True)
                ),
                DIGITS,
            ),
        }
        for name, found in values.items()
    }
    text = json.dumps({"code": f"{DATA}+{PARITY}", "dead": dead, "file_mib": file_mib, **report})
    if json_path is not None:
        json_path.write_text(text + "\n")
    else:
        click.echo(text)


if __name__ == "__main__":
    main()

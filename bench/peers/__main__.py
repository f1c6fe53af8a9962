"""Take every peer in turn through the same cases in one run.

    python -m bench.peers [--peer NAME]... [--dir DIR] [--rounds N] [--size MIB] [--files N]
                          [--only CASE,...] [--remount] [--nice N] [--out PREFIX]

Writes PREFIX.json, PREFIX.md (the table, with ratios of rainfs to each, and one that holds them
against the targets) and PREFIX.svg; shows the first table. Needs root. On a machine that others
use, --nice -11 keeps them from drowning the figures. Everything that it started is gone when it
ends, also when it fails.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import click

from bench.cases import Scale, note
from bench.peers.glusterfs import GlusterFS
from bench.peers.juicefs import JuiceFS
from bench.peers.moosefs import MooseFS
from bench.peers.peer import Peer, PeerFailed
from bench.peers.plain import Disk, Null
from bench.peers.processes import cpu_s, end_pids, favour, pids_naming
from bench.peers.rain import RainFS
from bench.report import markdown, print_table, svg
from bench.results import Results
from bench.rounds import Subject, run_rounds
from bench.run import wanted_cases
from bench.targets import OURS, target_table

PEERS: dict[str, Peer] = {
    "rainfs": RainFS(),
    "rainfs-writeback": RainFS("writeback"),
    "glusterfs": GlusterFS(),
    "moosefs": MooseFS(),
    "juicefs-sqlite": JuiceFS("sqlite"),
    "juicefs-redis": JuiceFS("redis"),
    "null": Null(),
    "disk": Disk(),
}


def _start(
    peer: Peer, key: str, base: Path, stack: ExitStack, *, remount: bool, niceness: int
) -> Subject:
    """Start one peer in a directory of its own; on failure undo its part at once."""
    own = base / key
    own.mkdir()
    with ExitStack() as attempt:
        attempt.callback(shutil.rmtree, own, ignore_errors=True)
        attempt.callback(end_pids, lambda: list(pids_naming(own)))
        running = peer.start(own, attempt)
        stack.enter_context(attempt.pop_all())

    def chill() -> None:
        if remount:
            running.remount()
            favour(running.pids(), niceness)

    favour(running.pids(), niceness)
    return Subject(
        peer.name,
        running.directory,
        chill=chill,
        cpu_s=lambda: cpu_s(running.pids()),
        keeps_bytes=peer.keeps_bytes,
    )


def _write(results: Results, prefix: Path) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(results.as_json(), indent=1) + "\n")
    prefix.with_suffix(".md").write_text(f"{markdown(results, OURS)}\n{target_table(results)}")
    prefix.with_suffix(".svg").write_text(svg(results))


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Turn a signal into an exit, so that the stacks unwind and nothing stays mounted."""
    sys.exit(128 + number)


@click.command()
@click.option("--peer", "keys", multiple=True, type=click.Choice(sorted(PEERS)), help="Else all.")
@click.option("--dir", "parent", default=None, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--size", default=512, show_default=True, help="MiB of the large file.")
@click.option("--files", default=1000, show_default=True, help="How many small files.")
@click.option("--only", default="", help="Cases to run, comma-separated; all by default.")
@click.option("--remount", is_flag=True, help="Remount before cold cases: no cache survives.")
@click.option("--nice", "niceness", default=0, help="Niceness of everything measured.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Prefix of the files.")
def main(
    keys: tuple[str, ...],
    parent: Path | None,
    rounds: int,
    size: int,
    files: int,
    only: str,
    remount: bool,
    niceness: int,
    out: Path | None,
) -> None:
    """Measure rainfs and its peers on the same work, in turn."""
    wanted = wanted_cases(only)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    with ExitStack() as stack:
        stack.callback(favour, [os.getpid()], os.getpriority(os.PRIO_PROCESS, 0))
        favour([os.getpid()], niceness)
        base = Path(tempfile.mkdtemp(prefix="rainfs-peers-", dir=parent)).resolve()
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        subjects = []
        for key in keys or tuple(PEERS):
            peer = PEERS[key]
            if reason := peer.lacking():
                note(f"{peer.name}: left out: {reason}")
                continue
            try:
                subjects.append(_start(peer, key, base, stack, remount=remount, niceness=niceness))
                note(f"{peer.name}: mounted")
            except (PeerFailed, OSError) as failure:
                note(f"{peer.name}: left out: {failure}")
        if not subjects:
            raise click.ClickException("no peer could be started")
        keep = (lambda results: _write(results, out)) if out else (lambda results: None)
        results = run_rounds(subjects, Scale(size, files), rounds, wanted, after_group=keep)
    print_table(results, OURS)
    if out is None:
        print(json.dumps(results.as_json(), indent=1))
    sys.exit(1 if results.failures else 0)


if __name__ == "__main__":
    main()

"""`rainfs fsck`: checks a volume, metadata and shards, and repairs it on demand.

Owns what the findings look like to people and to programs, and the exit codes, which are those of
e2fsck: 0 clean, 1 everything repaired, 2 usage, 4 errors left, 8 could not be run.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import click
import msgspec
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from rainfs.array.backend import Backend
from rainfs.array.backends.registry import open_backend
from rainfs.care import fsck
from rainfs.care.fsck import Repaired, Report, Stage, check, repair
from rainfs.cli.access import opened_volume
from rainfs.cli.daemon import reason_of
from rainfs.cli.report import print_json
from rainfs.cli.sizes import format_size
from rainfs.cli.volume_url import meta_url
from rainfs.errors import InputError, MetadataForeign, RainError
from rainfs.meta.engine import Engine
from rainfs.meta.nodes import list_nodes
from rainfs.model import NodeNumber, VolumeId

EXIT_CLEAN = 0
EXIT_REPAIRED = 1
EXIT_USAGE = 2
EXIT_ERRORS_LEFT = 4
EXIT_NOT_RUN = 8

NODE_DEADLINE_S = 10.0
MAX_PRINTED = 200
"""Findings that people are shown; programs get them all."""


class FindingPart(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    kind: str
    what: str
    inode: int | None
    stripe: str | None
    lost: bool
    """Whether it stands for data that cannot be brought back now."""


class ShardsPart(msgspec.Struct, frozen=True):
    """What the nodes hold."""

    checked: int
    unchecked: int
    degraded_stripes: int
    garbage: int
    garbage_bytes: int
    unreachable: dict[str, str]
    """Names of nodes that did not answer, and why."""


class FsckReport(msgspec.Struct, frozen=True):
    """The whole of `fsck --json`; fields are only ever added."""

    volume: str
    clean: bool
    """Whether the check before any repair found nothing."""
    repaired: int
    """Findings that were put right."""
    found: dict[str, int]
    """How many findings of each kind there were, before any repair."""
    left: dict[str, int]
    """How many there are afterwards."""
    findings: list[FindingPart]
    """All findings before any repair; of very many, the first ones."""
    remaining: list[FindingPart]
    """All findings after it."""
    rows: int
    stripes: int
    shards: ShardsPart | None
    files: list[str]
    """Paths with lost or unreadable bytes, with `--files`."""
    exit: int


@click.command("fsck", short_help="Check a volume, and repair it.")
@click.argument("volume", metavar="META_URL|MOUNTPOINT")
@click.option("--repair", "mending", is_flag=True, help="Put right what can be; not while mounted.")
@click.option("--files", is_flag=True, help="List the files with lost or unreadable bytes.")
@click.option("--no-nodes", is_flag=True, help="Check the metadata alone.")
@click.option("--json", "as_json", is_flag=True, help="A stable form for programs.")
def fsck_command(volume: str, mending: bool, files: bool, no_nodes: bool, as_json: bool) -> int:
    """Check a volume: names, link counts, extents, stripes, live bytes, and every shard.

    Without --repair nothing is written, and a mount may go on.  --repair needs the volume
    unmounted (read-write mounts, that is).  It corrects counts, drops names of nothing, gives
    nameless files a name in /lost+found, cuts extents that overlap or point at foreign bytes,
    and rebuilds missing shards from the others.  Bytes of which too few shards are left are
    reported and never dropped.  Shards on nodes that do not answer count as unchecked.

    \b
    Exit codes:
      0  nothing is wrong
      1  errors were found, and all of them repaired
      2  wrong usage
      4  errors are left, or data cannot be read
      8  the check could not be run
    """
    try:
        url = meta_url(volume)
    except InputError as error:
        click.echo(f"rainfs: {error}", err=True)
        return EXIT_USAGE
    try:
        report = trio.run(_run, url, mending, files, no_nodes)
    except (RainError, BaseExceptionGroup) as error:
        click.echo(f"rainfs: {reason_of(error)}", err=True)
        return EXIT_NOT_RUN
    if as_json:
        print_json(report)
    else:
        _print(report, mending)
    return report.exit


async def _run(url: str, mending: bool, files: bool, no_nodes: bool) -> FsckReport:
    async with opened_volume(url) as (engine, volume):
        names: dict[NodeNumber, str] = {}
        async with _opened_nodes(engine, volume.id, names, wanted=not no_nodes) as backends:
            with _bar() as progress:
                if mending:
                    done = await repair(engine, backends, progress=progress)
                else:
                    found = await check(engine, backends, progress=progress)
                    done = Repaired(found, found, 0)
    return _report(volume.name, done, names, files)


@asynccontextmanager
async def _opened_nodes(
    engine: Engine, volume: VolumeId, names: dict[NodeNumber, str], *, wanted: bool
) -> AsyncIterator[Mapping[NodeNumber, Backend] | None]:
    """Open a session to every node whose row can be read; `names` gets what they are called."""
    if not wanted:
        yield None
        return
    try:
        nodes = await list_nodes(engine)
    except MetadataForeign:
        yield {}  # The check says which row it is.
        return
    async with trio.open_nursery() as nursery:
        backends: dict[NodeNumber, Backend] = {}
        for node in nodes:
            names[node.number] = node.name
            backends[node.number] = open_backend(
                node.url, volume, deadline_s=NODE_DEADLINE_S, nursery=nursery
            )
        try:
            yield backends
        finally:
            with trio.CancelScope(shield=True):
                for backend in backends.values():
                    await backend.aclose()
        nursery.cancel_scope.cancel()


@contextmanager
def _bar() -> Iterator[fsck.Progress]:
    """Show progress on a terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        tasks: dict[Stage, TaskID] = {}

        def progress(stage: Stage, done: int, expected: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage.value, total=expected)
            bar.update(tasks[stage], completed=done, total=expected)

        yield progress


def _report(name: str, done: Repaired, names: Mapping[NodeNumber, str], files: bool) -> FsckReport:
    before, after = done.before, done.after
    code = EXIT_REPAIRED if after.clean else EXIT_ERRORS_LEFT
    shards = after.shards
    return FsckReport(
        volume=name,
        clean=before.clean,
        repaired=done.settled,
        found=_counts(before),
        left=_counts(after),
        findings=_parts(before),
        remaining=_parts(after),
        rows=after.metadata.rows,
        stripes=after.metadata.stripes,
        shards=None
        if shards is None
        else ShardsPart(
            checked=shards.checked,
            unchecked=shards.unchecked,
            degraded_stripes=shards.degraded,
            garbage=shards.garbage,
            garbage_bytes=shards.garbage_bytes,
            unreachable={
                names.get(number, f"node {number}"): why
                for number, why in sorted(shards.unreachable.items())
            },
        ),
        files=[_printable(path) for path in sorted({*before.hurt, *after.hurt})] if files else [],
        exit=EXIT_CLEAN if before.clean else code,
    )


def _counts(report: Report) -> dict[str, int]:
    return {kind.value: count for kind, count in sorted(report.all_findings.counts.items())}


def _parts(report: Report) -> list[FindingPart]:
    return [
        FindingPart(
            kind=finding.kind.value,
            what=finding.what,
            inode=finding.inode,
            stripe=None if finding.stripe is None else f"{finding.stripe:#x}",
            lost=finding.lost,
        )
        for finding in report.findings
    ]


def _printable(path: bytes) -> str:
    """Return a path as text; bytes that are no UTF-8 are written as `\\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def _print(report: FsckReport, mending: bool) -> None:
    for finding in report.findings[:MAX_PRINTED]:
        click.echo(f"{finding.kind}: {finding.what}")
    total, left = sum(report.found.values()), sum(report.left.values())
    if total > MAX_PRINTED:
        click.echo(f"... and {total - MAX_PRINTED:,} more")
    shards = report.shards
    if shards is not None:
        for name, why in shards.unreachable.items():
            click.echo(f"not checked: {name}: {why}")
    if mending and left:
        click.echo("left:")
        for finding in report.remaining[:MAX_PRINTED]:
            click.echo(f"{finding.kind}: {finding.what}")
    if report.files:
        click.echo("files with lost or unreadable bytes:")
        for path in report.files:
            click.echo(path)
    looked = f"{report.rows:,} rows, {report.stripes:,} stripes"
    if shards is not None:
        looked += f", {shards.checked:,} shards"
        if shards.unchecked:
            looked += f" ({shards.unchecked:,} on nodes that did not answer)"
        if shards.degraded_stripes:
            looked += f"; {shards.degraded_stripes:,} stripes have less redundancy than they should"
        if shards.garbage:
            size = format_size(shards.garbage_bytes)
            looked += f"; {shards.garbage:,} shards ({size}) for `rainfs gc`"
    if report.clean:
        verdict = "clean"
    elif report.exit == EXIT_REPAIRED:
        verdict = f"{total:,} errors, all repaired"
    elif mending:
        verdict = f"{total:,} errors, {left:,} left"
    else:
        verdict = f"{total:,} errors"
    click.echo(f"{report.volume}: {verdict} ({looked})")

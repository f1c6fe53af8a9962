"""`rainfs fsck` on real nodes and mounts: exit codes, what it says, and what it mends."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import trio

from rainfs.cli.access import opened_backend
from rainfs.meta import keys
from rainfs.meta.open import open_engine
from rainfs.meta.records import ATTRS
from rainfs.meta.volume import open_volume
from rainfs.model import ROOT_INODE
from tests.system.harness import Cluster, rainfs, write_durably

CLEAN, REPAIRED, USAGE, LEFT, NOT_RUN = 0, 1, 2, 4, 8


def fsck(cluster: Cluster, *options: str) -> tuple[int, dict[str, Any]]:
    """Run it with --json; return the exit code and the report."""
    done = rainfs("fsck", cluster.meta_url, "--json", *options, check=False)
    assert done.returncode in (CLEAN, REPAIRED, LEFT), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["exit"] == done.returncode
    return done.returncode, report


def populate(cluster: Cluster) -> dict[str, bytes]:
    """Write some files, large and small; return what they hold."""
    content = {
        "large": os.urandom(9 << 20),
        "small": os.urandom(3_000),
        "directory/other": os.urandom(200_000),
    }
    (cluster.mountpoint / "directory").mkdir()
    for name, data in content.items():
        write_durably(cluster.mountpoint / name, data)
    os.link(cluster.mountpoint / "small", cluster.mountpoint / "directory" / "linked")
    os.symlink("small", cluster.mountpoint / "link")
    os.setxattr(cluster.mountpoint / "small", "user.colour", b"blue")
    (cluster.mountpoint / "removed").write_bytes(b"x" * 5_000)
    (cluster.mountpoint / "removed").unlink()
    return content


def holds(cluster: Cluster, content: dict[str, bytes]) -> bool:
    return all((cluster.mountpoint / name).read_bytes() == data for name, data in content.items())


def edit_row(cluster: Cluster, key: bytes, value: bytes | None) -> bytes:
    """Change a row of the database behind everybody's back; return what it was."""
    with sqlite3.connect(cluster.meta) as database:
        (old,) = database.execute("SELECT v FROM kv WHERE k=?", (key,)).fetchone()
        if value is None:
            database.execute("DELETE FROM kv WHERE k=?", (key,))
        else:
            database.execute("UPDATE kv SET v=? WHERE k=?", (value, key))
    database.close()
    return bytes(old)


def lose_shards(cluster: Cluster, index: int) -> None:
    """Delete all that a node holds, behind everybody's back."""

    async def delete() -> None:
        engine = open_engine(cluster.meta_url)
        volume = await open_volume(engine)
        await engine.aclose()
        async with opened_backend(cluster.nodes[index].url, volume.id) as backend:
            while page := await backend.list(None, 200):
                await backend.delete([info.key for info in page])

    trio.run(delete)


def test_a_volume_in_use_is_checked_and_its_repair_refused(mounted: Cluster) -> None:
    content = populate(mounted)
    code, report = fsck(mounted)
    assert (code, report["found"], report["left"]) == (CLEAN, {}, {})
    assert report["shards"]["checked"] > 6
    assert report["shards"]["unreachable"] == {}
    refused = rainfs("fsck", mounted.mountpoint, "--repair", check=False)
    assert refused.returncode == NOT_RUN
    assert refused.stderr.count("\n") == 1
    assert "unmount" in refused.stderr
    assert holds(mounted, content)


def test_wrong_use_and_what_is_no_volume_have_codes_of_their_own(
    cluster: Cluster, tmp_path: Path
) -> None:
    for arguments in (("nonsense",), (), (cluster.meta_url, "--bogus"), ("ftp://x",)):
        assert rainfs("fsck", *arguments, check=False).returncode == USAGE, arguments
    absent = rainfs("fsck", f"sqlite://{tmp_path}/absent.db", check=False)
    assert absent.returncode == NOT_RUN
    assert absent.stderr.count("\n") == 1
    other = tmp_path / "other.db"
    other.write_bytes(os.urandom(5_000))
    assert rainfs("fsck", f"sqlite://{other}", check=False).returncode == NOT_RUN


def test_metadata_and_shards_are_repaired_and_the_files_are_as_they_were(
    mounted: Cluster,
) -> None:
    content = populate(mounted)
    mounted.umount()
    key = keys.inode_key(ROOT_INODE)
    root = ATTRS.decode(edit_row(mounted, key, b"\xc1"))
    assert root.nlink == 3
    code, report = fsck(mounted)
    assert (code, report["found"]) == (LEFT, {"lost-inode": 1})
    said = rainfs("fsck", mounted.meta_url, "--repair", check=False)
    assert said.returncode == REPAIRED, said.stdout
    assert "all repaired" in said.stdout
    assert fsck(mounted)[0] == CLEAN
    mounted.mount()
    assert holds(mounted, content)
    assert os.stat(mounted.mountpoint).st_nlink == 3


def test_shards_that_a_node_lost_are_put_back(mounted: Cluster) -> None:
    content = populate(mounted)
    mounted.umount()
    lose_shards(mounted, 0)
    lose_shards(mounted, 1)
    code, report = fsck(mounted)
    assert code == LEFT
    assert set(report["found"]) == {"shards"}
    code, report = fsck(mounted, "--repair")
    assert (code, report["left"]) == (REPAIRED, {})
    assert fsck(mounted)[0] == CLEAN
    # Two others may go now: what was rebuilt is what was written.
    mounted.nodes[4].kill()
    mounted.nodes[5].kill()
    mounted.mount()
    assert holds(mounted, content)


def test_what_is_lost_is_listed_and_stays_lost(mounted: Cluster) -> None:
    populate(mounted)
    mounted.umount()
    for index in range(3):
        lose_shards(mounted, index)
    code, report = fsck(mounted, "--files", "--repair")
    assert code == LEFT
    assert "stripe-lost" in report["left"]
    assert "/large" in report["files"]
    again, report = fsck(mounted, "--files")
    assert again == LEFT
    assert "/large" in report["files"]


def test_dead_nodes_are_named_and_their_shards_unchecked(mounted: Cluster) -> None:
    populate(mounted)
    mounted.umount()
    mounted.nodes[0].kill()
    code, report = fsck(mounted)
    assert code == CLEAN
    assert set(report["shards"]["unreachable"]) == {"node-1"}
    assert report["shards"]["unchecked"] > 0
    text = rainfs("fsck", mounted.meta_url).stdout
    assert "not checked: node-1" in text
    for index in (1, 2):
        mounted.nodes[index].kill()
    code, report = fsck(mounted, "--files")
    assert code == LEFT
    assert "/large" in report["files"]
    assert set(report["found"]) == {"unreadable"}


def test_a_killed_mount_leaves_a_clean_volume(mounted: Cluster) -> None:
    populate(mounted)
    mounted.kill_mount()
    assert fsck(mounted)[0] == CLEAN

"""What programs do with a file system: trees copied in by three tools, git, SQLite, dpkg."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.system.harness import Cluster, drop_caches, run

LARGE_FILE_MIB = {False: 96, True: 1024}
SQLITE_WRITERS = 4
SQLITE_ROWS = 60


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, long_form: bool) -> Path:
    """Thousands of real files (Python's own library) and a large one, on the local disk."""
    root = tmp_path_factory.mktemp("source") / "tree"
    library = sysconfig.get_paths()["stdlib"]
    leave_out = ["--exclude=site-packages", "--exclude=__pycache__"]
    if not long_form:
        leave_out += ["--exclude=/test", "--exclude=/idlelib", "--exclude=/lib2to3"]
    run("rsync", "-a", *leave_out, f"{library}/", root)
    (root / "empty").touch()
    (root / "link").symlink_to("os.py")
    os.link(root / "os.py", root / "hard-link.py")
    (
        root
        / "a name with spaces, \udcff and ünïcödé".encode("utf-8", "surrogateescape").decode(
            "utf-8", "surrogateescape"
        )
    ).write_text("x")
    os.mkfifo(root / "fifo")
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o4751)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    with (root / "large").open("wb") as file:
        for number in range(LARGE_FILE_MIB[long_form]):
            file.write(generator.randbytes(1 << 20) if number % 4 else bytes(1 << 20))
    return root


def assert_equal_trees(one: Path, other: Path) -> None:
    """Bytes by diff, names, types, modes, owners, times and links by rsync."""
    assert run("diff", "-r", "--no-dereference", "-x", "fifo", one, other) == ""
    assert run("rsync", "-aHni", "--delete", f"{one}/", other) == ""


@pytest.mark.parametrize("tool", ["cp", "tar", "rsync"])
def test_a_tree_copied_in_reads_back_equal(shared: Cluster, source: Path, tool: str) -> None:
    target = shared.mountpoint / tool
    if tool == "cp":
        run("cp", "-a", source, target)
    elif tool == "tar":
        target.mkdir()
        run("sh", "-c", f"tar -C '{source}' -cf - . | tar -C '{target}' -xpf -")
    else:
        run("rsync", "-aH", f"{source}/", target)
    assert_equal_trees(source, target)
    shared.remount()
    drop_caches()
    assert_equal_trees(source, target)
    run("rm", "-r", target)
    assert not target.exists()


def test_git_clones_and_checks(shared: Cluster, source: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    run("rsync", "-a", "--exclude=/large", "--exclude=fifo", f"{source}/", origin)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0"]
    run("git", "init", "-q", cwd=origin)
    run("git", *identity, "add", "-A", cwd=origin)
    run("git", *identity, "commit", "-q", "-m", "all", cwd=origin)
    clone = shared.mountpoint / "clone"
    run("git", "clone", "-q", "--no-local", origin, clone)
    run("git", "fsck", "--full", "--strict", cwd=clone)
    run("git", "repack", "-adq", cwd=clone)
    shared.remount()
    run("git", "fsck", "--full", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    assert run("diff", "-r", "--no-dereference", "-x", ".git", origin, clone) == ""


_WRITER = """
import sqlite3, sys
database, writer, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = sqlite3.connect(database, timeout=120, isolation_level=None)
for row in range(rows):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES (?, ?, randomblob(3000))", (writer, row))
    connection.execute("COMMIT")
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_survives_concurrent_writers(shared: Cluster, journal: str) -> None:
    database = shared.mountpoint / f"{journal}.sqlite"
    with sqlite3.connect(database) as connection:
        assert connection.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        connection.execute("CREATE TABLE t (writer INT, row INT, blob BLOB)")
    connection.close()
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, database, str(n), str(SQLITE_ROWS)])
        for n in range(SQLITE_WRITERS)
    ]
    assert [writer.wait(timeout=300) for writer in writers] == [0] * SQLITE_WRITERS
    shared.remount()
    connection = sqlite3.connect(database)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = connection.execute("SELECT writer, row FROM t ORDER BY 1, 2").fetchall()
    connection.close()
    assert rows == [(n, row) for n in range(SQLITE_WRITERS) for row in range(SQLITE_ROWS)]


def test_dpkg_unpacks_a_package(shared: Cluster, source: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    run("rsync", "-a", "--exclude=/large", "--exclude=fifo", f"{source}/", package / "usr")
    (package / "DEBIAN" / "control").write_text(
        "Package: sample\nVersion: 1\nArchitecture: all\nMaintainer: t\nDescription: sample\n"
    )
    archive = shared.mountpoint / "sample.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", package, archive)
    target = shared.mountpoint / "unpacked"
    run("dpkg-deb", "-x", archive, target)
    shared.remount()
    assert run("diff", "-r", "--no-dereference", package / "usr", target / "usr") == ""

"""Bad input: one line that says what is wrong, the right exit code, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import HOST, Cluster, StorageNode, free_port, rainfs


def refused(*arguments: object, saying: str, code: int = 1) -> None:
    """The command fails with `code` and, for a failure, one line matching `saying`."""
    done = rainfs(*arguments, check=False)
    assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
    assert re.search(saying, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StorageNode]]:
    """Three nodes that belong to no volume."""
    root = tmp_path_factory.mktemp("idle")
    nodes = [StorageNode(root / f"n{number}", f"n{number}", "1G") for number in range(3)]
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_ready()
        yield nodes
    finally:
        for node in nodes:
            node.close()


def urls(nodes: list[StorageNode]) -> list[str]:
    return [node.url for node in nodes]


@pytest.mark.parametrize(
    ("options", "saying"),
    [
        (["--data", 0, "--parity", 1], "code 0\\+1"),
        (["--data", 2, "--parity", -1], "code 2\\+-1"),
        (["--data", 250, "--parity", 20], "at most 255"),
        (["--mirror", 0], "mirror of 0"),
        (["--data", 2, "--parity", 2], "needs 4 nodes, 3 given"),
        (["--mirror", 4], "needs 4 nodes, 3 given"),
        ([], "3 nodes are too few for the default 4\\+2"),
    ],
)
def test_format_refuses_impossible_geometry(
    idle: list[StorageNode], tmp_path: Path, options: list[object], saying: str
) -> None:
    meta = tmp_path / "rain.db"
    refused("format", f"sqlite://{meta}", "--name", "v", *options, *urls(idle), saying=saying)
    assert not meta.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["format"],
        ["format", "sqlite:///x", "rain://h:1"],
        ["format", "sqlite:///x", "--name", "v", "--data", "two", "--parity", "1", "rain://h:1"],
        ["format", "sqlite:///x", "--name", "v", "--data", "2", "rain://h:1"],
        ["format", "sqlite:///x", "--name", "v", "--compression", "zip", "rain://h:1"],
        ["mount", "sqlite:///x"],
        ["node", "serve", "/x", "--listen", "127.0.0.1:1", "--capacity", "much"],
        ["nonsense"],
        ["demo", "--purge", "/mnt"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    refused(*arguments, saying="Error:", code=2)


@pytest.mark.parametrize(
    ("url", "saying"),
    [
        ("nonsense", "nonsense"),
        ("ftp://host/x", "ftp"),
        ("rain://", "rain://"),
        ("rain://localhost", "rain://localhost"),
        ("rain://localhost:99999", "99999"),
        ("file://relative/path", "file://relative"),
    ],
)
def test_format_refuses_a_bad_backend_url(tmp_path: Path, url: str, saying: str) -> None:
    meta = tmp_path / "rain.db"
    options = ["--name", "v", "--data", 1, "--parity", 0]
    refused("format", f"sqlite://{meta}", *options, url, saying=saying)
    assert not meta.exists()


@pytest.mark.parametrize("url", ["sqlite://relative", "mysql://host/db", "sqlite:///"])
def test_a_bad_metadata_url_is_refused(url: str) -> None:
    refused("status", url, saying="metadata|absolute")


def test_format_refuses_the_same_node_twice(idle: list[StorageNode], tmp_path: Path) -> None:
    meta = tmp_path / "rain.db"
    twice = [idle[0].url, idle[0].url]
    refused("format", f"sqlite://{meta}", "--name", "v", "--mirror", 2, *twice, saying="twice")
    alias = [idle[0].url, idle[0].url.replace("127.0.0.1", "localhost")]
    refused("format", f"sqlite://{meta}", "--name", "v", "--mirror", 2, *alias, saying="same node")
    assert not meta.exists()


def test_format_refuses_a_node_that_does_not_answer(
    idle: list[StorageNode], tmp_path: Path
) -> None:
    meta = tmp_path / "rain.db"
    nobody = f"rain://{HOST}:{free_port()}"
    options = ["--name", "v", "--mirror", 2]
    refused("format", f"sqlite://{meta}", *options, idle[0].url, nobody, saying=nobody)
    assert not meta.exists()


def test_format_refuses_a_node_that_speaks_another_protocol(
    idle: list[StorageNode], tmp_path: Path
) -> None:
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        web = f"rain://{HOST}:{server.getsockname()[1]}"
        options = ["--name", "v", "--mirror", 2]
        refused(
            "format",
            f"sqlite://{tmp_path}/rain.db",
            *options,
            idle[0].url,
            web,
            saying="protocol|rainfs",
        )


def test_format_refuses_nodes_of_another_volume_and_a_database_in_use(
    shared: Cluster, tmp_path: Path
) -> None:
    nodes = [node.url for node in shared.nodes]
    refused("format", f"sqlite://{tmp_path}/new.db", "--name", "v", *nodes, saying="volume already")
    refused("format", shared.meta_url, "--name", "v", *nodes, saying="holds the volume test")
    assert shared.status()["volume"]["name"] == "test"


def test_node_add_refuses_a_member_and_a_stranger(shared: Cluster, idle: list[StorageNode]) -> None:
    refused("node", "add", shared.meta_url, shared.nodes[0].url, saying="node-1 of this volume")
    refused("node", "add", shared.meta_url, f"rain://{HOST}:{free_port()}", saying="rain://")


@pytest.mark.parametrize("command", ["mount", "status", "gc", "node"])
def test_an_absent_database_is_named(tmp_path: Path, command: str) -> None:
    url = f"sqlite://{tmp_path}/nothing.db"
    arguments: list[object] = [command, url]
    if command == "mount":
        (tmp_path / "mnt").mkdir()
        arguments.append(tmp_path / "mnt")
    if command == "node":
        arguments = ["node", "list", url]
    refused(*arguments, saying="nothing.db")
    assert not (tmp_path / "nothing.db").exists()


def test_a_foreign_or_corrupt_database_is_refused(shared: Cluster, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    text = tmp_path / "text.db"
    text.write_text("this is no database at all, but long enough to be read as one\n" * 100)
    refused("mount", f"sqlite://{text}", mountpoint, saying="text.db")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    refused("mount", f"sqlite://{other}", mountpoint, saying="other.db")
    corrupt = tmp_path / "corrupt.db"
    shutil.copy(shared.meta, corrupt)
    with corrupt.open("r+b") as file:
        file.seek(0)
        file.write(os.urandom(4096))
    before = corrupt.read_bytes()
    refused("mount", f"sqlite://{corrupt}", mountpoint, saying="corrupt.db")
    assert corrupt.read_bytes() == before


def test_a_database_of_a_later_version_is_refused(cluster: Cluster) -> None:
    connection = sqlite3.connect(cluster.meta)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version={version + 1}")
    connection.close()
    refused(
        "mount",
        cluster.meta_url,
        cluster.mountpoint,
        saying="metadata (schema|format) \\d+; this rainfs knows",
    )


def test_the_mount_point_must_be_an_empty_directory(cluster: Cluster, tmp_path: Path) -> None:
    refused("mount", cluster.meta_url, tmp_path / "missing", saying="missing")
    file = tmp_path / "file"
    file.touch()
    refused("mount", cluster.meta_url, file, saying="file")
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").touch()
    refused("mount", cluster.meta_url, full, saying="empty")
    assert (full / "something").exists()


def test_a_second_mount_is_refused(shared: Cluster, tmp_path: Path) -> None:
    refused("mount", shared.meta_url, shared.mountpoint, saying="mounted")
    second = tmp_path / "second"
    second.mkdir()
    refused("mount", shared.meta_url, second, saying="already mounted")
    assert os.listdir(second) == []


def test_what_the_mount_needs_must_not_lie_below_it(cluster: Cluster) -> None:
    refused("mount", cluster.meta_url, cluster.meta.parent, saying="below the mount point|empty")
    inside = cluster.mountpoint / "log"
    refused("mount", cluster.meta_url, cluster.mountpoint, "--log", inside, saying="below")


def test_unknown_mount_options_are_refused(cluster: Cluster) -> None:
    refused("mount", cluster.meta_url, cluster.mountpoint, "-o", "shiny", saying="shiny")
    refused("mount", cluster.meta_url, cluster.mountpoint, "-o", "timeout=x", saying="timeout")


def test_umount_refuses_what_is_not_ours_and_what_is_busy(shared: Cluster, tmp_path: Path) -> None:
    refused("umount", tmp_path, saying="no rainfs is mounted")
    refused("umount", "/", saying="no rainfs is mounted")
    with (shared.mountpoint / "open").open("w"):
        refused("umount", shared.mountpoint, saying="busy")
    assert (shared.mountpoint / "open").exists()


def serving(directory: Path, *more: object) -> list[object]:
    return ["node", "serve", directory, "--listen", f"{HOST}:{free_port()}", *more]


def test_a_node_refuses_a_directory_in_use_and_a_new_one_without_capacity(
    idle: list[StorageNode], tmp_path: Path
) -> None:
    refused(*serving(idle[0].directory), saying="another process")
    refused(*serving(tmp_path / "new"), saying="capacity")
    assert not (tmp_path / "new").exists()


def test_a_node_refuses_to_shrink_below_its_contents(cluster: Cluster) -> None:
    cluster.mount()
    (cluster.mountpoint / "file").write_bytes(os.urandom(16 << 20))
    cluster.umount()
    node = cluster.nodes[0]
    node.kill()
    refused(*serving(node.directory, "--capacity", "1M"), saying="1048576|smaller|holds|too small")
    cluster.start()
    assert cluster.status()["nodes"][0]["capacity_bytes"] == 8 << 30


def test_a_node_refuses_damaged_storage(tmp_path: Path) -> None:
    directory = tmp_path / "node"
    node = StorageNode(directory, "n", "1G")
    node.start()
    node.wait_ready()
    node.close()
    with (directory / ".rainfs-store").open("r+b") as file:
        file.write(os.urandom(8192))
    refused(*serving(directory), saying=str(directory))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "[::]"])
def test_a_node_listens_on_loopback_only(tmp_path: Path, host: str) -> None:
    arguments = ["node", "serve", tmp_path / "n", "--listen", f"{host}:0", "--capacity", "1G"]
    refused(*arguments, saying="loopback")


def test_a_port_in_use_is_named(idle: list[StorageNode], tmp_path: Path) -> None:
    listen = f"{HOST}:{idle[0].port}"
    arguments = ["node", "serve", tmp_path / "n", "--listen", listen, "--capacity", "1G"]
    refused(*arguments, saying=str(idle[0].port))


def test_status_of_what_is_no_mount_point_is_refused(tmp_path: Path) -> None:
    refused("status", tmp_path, saying="neither a metadata URL nor the mount point")

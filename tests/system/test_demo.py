"""`rainfs demo`: from nothing to a mount, over the loss of anything, back to nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rainfs.cli.volume_url import mount_on
from tests.system.harness import rainfs, wait_until, write_durably

SMALL = ["--capacity", "1G"]


class DemoSite:
    """Where a demo lives in a test."""

    def __init__(self, root: Path) -> None:
        self.mountpoint = root / "mnt"
        self.directory = root / "demo"

    def run(self, *options: str) -> str:
        return rainfs("demo", "--dir", self.directory, *options, self.mountpoint).stdout

    def pid(self, number: int) -> int:
        return int((self.directory / f"node-{number}" / "node.pid").read_text())

    def status(self) -> list[str]:
        answer = json.loads(rainfs("status", self.mountpoint, "--json").stdout)
        return [node["state"] for node in answer["nodes"]]

    @property
    def mounted(self) -> bool:
        return mount_on(str(self.mountpoint)) is not None


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DemoSite]:
    made = DemoSite(tmp_path)
    yield made
    if (made.directory / "demo.json").exists():
        rainfs("demo", "--stop", "--purge", "--dir", made.directory, made.mountpoint, check=False)
    assert not made.mounted


def test_one_command_gives_a_mount_that_survives_two_dead_nodes(site: DemoSite) -> None:
    said = site.run(*SMALL)
    assert str(site.mountpoint) in said
    assert re.search(r"any 2 of the nodes may die", said)
    assert sorted(path.name for path in site.directory.glob("node-?")) == [
        f"node-{number}" for number in range(1, 7)
    ]
    assert (site.directory / "rain.db").stat().st_mode & 0o777 == 0o600
    assert all((site.directory / f"node-{n}").stat().st_mode & 0o777 == 0o700 for n in range(1, 7))
    content = os.urandom(10 << 20)
    (site.mountpoint / "file").write_bytes(content)
    for number in (2, 5):
        os.kill(site.pid(number), signal.SIGKILL)
    assert (site.mountpoint / "file").read_bytes() == content
    (site.mountpoint / "new").write_bytes(content)
    wait_until(lambda: site.status().count("down") == 2, "two nodes are down")
    assert "started 2" in site.run()
    wait_until(lambda: site.status() == ["up"] * 6, "all nodes are up")
    assert (site.mountpoint / "new").read_bytes() == content


def test_stopped_and_started_again_the_data_is_there(site: DemoSite) -> None:
    site.run(*SMALL, "--nodes", "3", "--data", "2", "--parity", "1")
    (site.mountpoint / "file").write_bytes(b"content" * 1000)
    pids = [site.pid(number) for number in (1, 2, 3)]
    site.run("--stop")
    assert not site.mounted
    assert not any(map(alive, pids))
    assert "stopped" in site.run("--stop")
    site.run()
    assert (site.mountpoint / "file").read_bytes() == b"content" * 1000
    assert "was mounted already" in site.run()
    # Without --dir the mount itself says where the demo is.
    rainfs("demo", "--stop", "--purge", site.mountpoint)
    assert not site.directory.exists()
    assert os.listdir(site.mountpoint) == []


def test_a_killed_mount_is_mounted_again(site: DemoSite) -> None:
    site.run(*SMALL, "--nodes", "1", "--data", "1", "--parity", "0")
    write_durably(site.mountpoint / "file", b"content")
    sessions = json.loads(rainfs("status", site.mountpoint, "--json").stdout)
    assert sessions["volume"]["name"] == "demo"
    os.kill(mount_pid(site), signal.SIGKILL)
    wait_until(lambda: not answers(site.mountpoint), "the mount is dead")
    site.run()
    assert (site.mountpoint / "file").read_bytes() == b"content"


def mount_pid(site: DemoSite) -> int:
    """Return the process behind the mount, from the log of its session lock."""
    wanted = os.fsencode(site.mountpoint)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if b"mount" in arguments and wanted in arguments:
                return int(process.name)
    raise AssertionError("no process serves the mount")


def answers(path: Path) -> bool:
    try:
        os.statvfs(path)
    except OSError:
        return False
    return True


def test_a_node_whose_port_was_taken_meanwhile_gets_another(site: DemoSite) -> None:
    site.run(*SMALL, "--nodes", "2", "--data", "1", "--parity", "1")
    write_durably(site.mountpoint / "file", b"content")
    site.run("--stop")
    port = json.loads((site.directory / "demo.json").read_text())["ports"][0]
    with socket.create_server(("127.0.0.1", port)):
        site.run()
        assert site.status() == ["up", "up"]
        assert (site.mountpoint / "file").read_bytes() == b"content"


def test_a_demo_of_another_shape_is_not_changed(site: DemoSite) -> None:
    site.run(*SMALL, "--nodes", "1", "--data", "1", "--parity", "0")
    done = rainfs("demo", "--dir", site.directory, "--nodes", 6, site.mountpoint, check=False)
    assert done.returncode == 1
    assert "1 nodes, not 6" in done.stderr
    done = rainfs("demo", "--dir", site.mountpoint.parent, site.mountpoint, check=False)
    assert done.returncode == 1
    assert site.mounted


def test_stop_without_a_demo_says_so(tmp_path: Path) -> None:
    done = rainfs("demo", "--stop", "--dir", tmp_path / "demo", tmp_path / "mnt", check=False)
    assert done.returncode == 1
    assert "no demo" in done.stderr

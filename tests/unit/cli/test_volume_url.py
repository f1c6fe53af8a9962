"""A metadata URL, or the mount point that leads to one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rainfs.cli import volume_url
from rainfs.errors import InputError, MountPointError

MOUNTINFO = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
49 27 0:44 / /mnt/rain ro,noatime shared:7 master:1 - fuse.rainfs sqlite:///var/a%20b.db ro
50 27 0:45 / /mnt/with\040space rw - fuse.rainfs sqlite:///var/c.db rw
51 27 0:46 / /mnt/other rw - fuse.sshfs host:/ rw
52 49 0:47 / /mnt/rain rw - fuse.rainfs sqlite:///var/top.db rw
nonsense
"""


@pytest.fixture(autouse=True)
def mountinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"
    path.write_bytes(MOUNTINFO)
    monkeypatch.setattr(volume_url, "MOUNTINFO", path)


def test_mountinfo_is_parsed_with_escapes_and_optional_fields() -> None:
    found = volume_url.parse_mountinfo(MOUNTINFO)
    assert [mount.mountpoint for mount in found if mount.ours] == [
        "/mnt/rain",
        "/mnt/with space",
        "/mnt/rain",
    ]
    assert found[1].minor == 44
    assert "noatime" in found[1].options


def test_the_topmost_mount_counts() -> None:
    assert volume_url.rainfs_mount_on("/mnt/rain").source == "sqlite:///var/top.db"


def test_a_mount_point_leads_to_its_volume() -> None:
    assert volume_url.meta_url("/mnt/with space") == "sqlite:///var/c.db"


def test_a_url_is_brought_into_its_normal_form() -> None:
    assert volume_url.meta_url("sqlite:///var/../var/x y.db") == "sqlite:///var/x%20y.db"
    assert volume_url.database_of("sqlite:///var/x%20y.db") == Path("/var/x y.db")


@pytest.mark.parametrize("argument", ["/mnt/other", "/nowhere", "rain.db", "ftp://x", "sqlite://x"])
def test_anything_else_is_refused(argument: str) -> None:
    with pytest.raises(InputError):
        volume_url.meta_url(argument)


def test_only_our_own_mounts_are_unmounted() -> None:
    with pytest.raises(MountPointError, match="no rainfs"):
        volume_url.rainfs_mount_on("/mnt/other")


@pytest.mark.parametrize(
    ("path", "directory", "below"),
    [
        ("/a/b", "/a", True),
        ("/a", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/x", "/", True),
    ],
)
def test_lies_below(path: str, directory: str, below: bool) -> None:
    assert volume_url.lies_below(path, directory) is below

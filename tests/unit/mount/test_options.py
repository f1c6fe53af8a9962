"""Mount options: what is understood, what is refused, and that all of them are documented."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from rainfs.errors import InputError, MountPointError
from rainfs.model import MIB
from rainfs.mount import options as module
from rainfs.mount.mountpoint import mounts, prepare
from rainfs.mount.options import MountOptions, parse_options


def test_options_are_understood() -> None:
    found = parse_options(["writeback,noxattr", "ro,noatime,timeout=2.5,dirty_mib=64,cache_mib=32"])
    assert found.writeback
    assert found.noxattr
    assert found.read_only
    assert found.noatime
    assert found.timeout_s == 2.5
    assert found.dirty_bytes == 64 * MIB
    assert found.cache_bytes == 32 * MIB


def test_compaction_is_configurable() -> None:
    found = parse_options(["compact_mbps=0.5,compact_below=75"])
    assert (found.compact_bytes_per_s, found.compact_below) == (MIB // 2, 0.75)
    assert parse_options(["compact_mbps=0"]).compact_bytes_per_s == 0


def test_options_of_mount_8_are_ignored_and_kernel_flags_kept() -> None:
    found = parse_options(["rw,_netdev,x-systemd.automount,nodev,nosuid"])
    assert found.kernel_flags == ("nodev", "nosuid")


@pytest.mark.parametrize(
    "word",
    [
        "nonsense",
        "timeout",
        "timeout=",
        "timeout=x",
        "timeout=0",
        "timeout=inf",
        "timeout=nan",
        "dirty_mib=1",
        "cache_mib=-5",
        "writeback=1",
        "dirty_mib=1e30",
        "compact_mbps=-1",
        "compact_below=100",
    ],
)
def test_what_is_not_understood_is_refused(word: str) -> None:
    with pytest.raises(InputError):
        parse_options([word])


def test_every_option_is_documented() -> None:
    text = (Path(module.__file__).parent / "OPTIONS.md").read_text()
    names = {"ro" if f.name == "read_only" else f.name for f in fields(MountOptions)}
    names -= {"timeout_s", "dirty_bytes", "cache_bytes", "kernel_flags"}
    names -= {"compact_bytes_per_s", "compact_below"}
    with_values = {f"{name}=" for name in module._VALUES}
    for name in names | with_values | set(module.KERNEL_FLAGS):
        assert f"`{name}" in text, name


def test_bad_mount_points_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    full = tmp_path / "full"
    full.mkdir()
    (full / "entry").write_text("")
    for bad, why in (
        (tmp_path / "absent", "No such"),
        (file, "not a directory"),
        (full, "not empty"),
    ):
        with pytest.raises(MountPointError, match=why):
            prepare(bad)
    good = tmp_path / "good"
    good.mkdir()
    prepare(good)


def test_the_mount_table_is_readable() -> None:
    assert any(mounted.mountpoint == "/" for mounted in mounts())

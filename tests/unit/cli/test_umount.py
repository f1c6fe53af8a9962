"""Unmounting what is in use: for a moment, or for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from rainfs.cli import umount
from rainfs.cli.volume_url import FILE_SYSTEM_TYPE, Mount
from rainfs.errors import MountPointError

MOUNT = Mount("/mnt/rain", FILE_SYSTEM_TYPE, "sqlite:///meta", 1, frozenset())


def test_who_is_there_for_a_moment_keeps_nobody_from_unmounting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[bool] = []

    def busy_twice(mountpoint: Path, *, lazy: bool) -> None:
        tries.append(lazy)
        if len(tries) < 3:
            raise MountPointError(f"{mountpoint} is busy")

    monkeypatch.setattr(umount, "unmount", busy_twice)
    umount._detach(MOUNT, lazily=False)
    assert tries == [False] * 3


def test_a_mount_that_stays_in_use_is_refused_and_other_errors_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = ["target is busy"]
    tries: list[bool] = []

    def refuse(mountpoint: Path, *, lazy: bool) -> None:
        tries.append(lazy)
        raise MountPointError(said[0])

    monkeypatch.setattr(umount, "unmount", refuse)
    monkeypatch.setattr(umount, "BUSY_S", 0.0)
    with pytest.raises(MountPointError, match="/mnt/rain is busy"):
        umount._detach(MOUNT, lazily=False)
    tries.clear()
    said[0] = "no permission"
    monkeypatch.setattr(umount, "BUSY_S", 60.0)
    with pytest.raises(MountPointError, match="no permission"):
        umount._detach(MOUNT, lazily=False)
    assert len(tries) == 1

"""A demo's directory: what is remembered, what is refused, what a lock says."""

from __future__ import annotations

from pathlib import Path

import pytest

from rainfs.cli.local_array import (
    Shape,
    is_locked,
    load_local_array,
    local_array,
    record_path,
)
from rainfs.errors import InputError
from rainfs.model import MIB
from rainfs.store.opening import STORAGE_NAME
from rainfs.store.store import Store

SHAPE = Shape(nodes=3, data=2, parity=1, capacity_bytes=64 * MIB)


def test_a_demo_is_remembered(tmp_path: Path) -> None:
    made = local_array(tmp_path / "demo", "/mnt/x", SHAPE)
    again = local_array(tmp_path / "demo", "/mnt/x", Shape())
    assert again.record == made.record
    assert len(set(made.record.ports)) == 3
    assert made.meta_url == f"sqlite://{tmp_path}/demo/rain.db"
    assert (tmp_path / "demo").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("mountpoint", "shape", "saying"),
    [
        ("/mnt/y", Shape(), "/mnt/x"),
        ("/mnt/x", Shape(nodes=4), "3 nodes, not 4"),
        ("/mnt/x", Shape(data=1), "2 data shards, not 1"),
        ("/mnt/x", Shape(parity=2), "1 parity shards, not 2"),
    ],
)
def test_another_shape_is_refused(
    tmp_path: Path, mountpoint: str, shape: Shape, saying: str
) -> None:
    local_array(tmp_path / "demo", "/mnt/x", SHAPE)
    with pytest.raises(InputError, match=saying):
        local_array(tmp_path / "demo", mountpoint, shape)


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").touch()
    with pytest.raises(InputError, match="not empty"):
        local_array(tmp_path, "/mnt/x", SHAPE)
    assert load_local_array(tmp_path) is None


def test_an_impossible_shape_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs 6 nodes"):
        local_array(tmp_path / "demo", "/mnt/x", Shape(nodes=5))
    assert not (tmp_path / "demo").exists()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    record_path(tmp_path).write_text("{")
    with pytest.raises(InputError, match=r"demo\.json"):
        load_local_array(tmp_path)


def test_purge_removes_its_own_and_nothing_else(tmp_path: Path) -> None:
    made = local_array(tmp_path / "demo", "/mnt/x", SHAPE)
    Store.open(made.node_directory(1), capacity_bytes=64 * MIB).close()
    (tmp_path / "demo" / "letters").touch()
    made.purge()
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["letters"]


def test_the_lock_says_whether_a_node_runs(tmp_path: Path) -> None:
    path = tmp_path / "n" / STORAGE_NAME
    assert not is_locked(path)
    store = Store.open(tmp_path / "n", capacity_bytes=64 * MIB)
    assert is_locked(path)
    store.close()
    assert not is_locked(path)

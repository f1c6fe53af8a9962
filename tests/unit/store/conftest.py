"""A small store in a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rainfs.model import MIB
from rainfs.store.store import Store


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "node-1"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    opened = Store.open(directory, capacity_bytes=64 * MIB)
    yield opened
    opened.close()

"""Fixtures of the system tests: a volume over six real nodes, unmounted and mounted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import Cluster, cluster_in


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Six running nodes and a 4+2 volume over them, not mounted."""
    with cluster_in(tmp_path) as made:
        yield made


@pytest.fixture
def mounted(cluster: Cluster) -> Cluster:
    """The same, mounted."""
    cluster.mount()
    return cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A mounted volume that the tests of one module share; each keeps to its own directory."""
    with cluster_in(tmp_path_factory.mktemp("shared")) as made:
        made.mount()
        yield made

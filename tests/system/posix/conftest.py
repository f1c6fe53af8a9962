"""One mount for the whole package, a local directory as its reference, and the count of checks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import Cluster, cluster_in
from tests.system.posix.actor import Actors
from tests.system.posix.checks import CHECKS
from tests.system.posix.spot import Spot

PLACES = ("mount", "local")

COUNTING_TEST = "test_the_suite_is_as_large_as_it_says"


@pytest.fixture(scope="session")
def posix_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The mounted 4+2 volume that the package shares; each test keeps to its own directory."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount and to act as other users")
    with cluster_in(tmp_path_factory.mktemp("posix")) as made:
        made.mount()
        os.chmod(made.mountpoint, 0o755)
        yield made


@pytest.fixture(scope="session")
def places(
    posix_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Path, Actors]]]:
    """The root of each place and the users that act there."""
    local = tmp_path_factory.mktemp("reference")
    os.chmod(local, 0o755)
    roots = {"mount": posix_cluster.mountpoint, "local": local}
    made = {name: (root, Actors(root)) for name, root in roots.items()}
    yield made
    for _, actors in made.values():
        actors.close()


def _spot(
    place: str, places: dict[str, tuple[Path, Actors]], request: pytest.FixtureRequest
) -> Spot:
    root, actors = places[place]
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:120]
    directory = root / f"{name}-{len(os.listdir(root))}"
    directory.mkdir()
    os.chmod(directory, 0o755)
    return Spot(place, root, directory, actors)


@pytest.fixture(params=PLACES)
def spot(request: pytest.FixtureRequest, places: dict[str, tuple[Path, Actors]]) -> Iterator[Spot]:
    """A directory of the test's own: on the mount, and once more on the reference."""
    old = os.umask(0o022)
    yield _spot(request.param, places, request)
    os.umask(old)


@pytest.fixture
def mounted(
    request: pytest.FixtureRequest, places: dict[str, tuple[Path, Actors]]
) -> Iterator[Spot]:
    """A directory on the mount, for what the local file system does otherwise."""
    old = os.umask(0o022)
    yield _spot("mount", places, request)
    os.umask(old)


@pytest.fixture
def twins(
    request: pytest.FixtureRequest, places: dict[str, tuple[Path, Actors]]
) -> Iterator[tuple[Spot, Spot]]:
    """A directory on the mount and one on the reference, which must come to look the same."""
    old = os.umask(0o022)
    yield _spot("mount", places, request), _spot("local", places, request)
    os.umask(old)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """A test whose checks failed has failed, after all of them were made."""
    try:
        result = yield
    except BaseException:
        print(CHECKS.settle())
        raise
    failed = CHECKS.settle()
    if failed:
        pytest.fail(failed, pytrace=False)
    return result


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What counts the checks runs after all of them."""
    items.sort(key=lambda item: item.name == COUNTING_TEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if CHECKS.counts:
        told = ", ".join(f"{count} on the {place}" for place, count in CHECKS.counts.items())
        terminalreporter.write_line(f"POSIX conformance: checks executed: {told}")

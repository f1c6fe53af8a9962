"""Options of the whole test run."""

from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """End as by Ctrl-C when told to go: fixtures take their mounts and daemons away."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms of tests as well")


@pytest.fixture(scope="session")
def long_form(request: pytest.FixtureRequest) -> bool:
    """Whether the long forms were asked for."""
    return bool(request.config.getoption("--long"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="a long form: run with --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)

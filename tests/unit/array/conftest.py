"""A clock that jumps to the next deadline as soon as nothing else can run."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.fakes.backend import FakeFleet


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture(params=["a task for each put", "puts begun at once"])
def ways_to_put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with backends that offer `begin_put`, and with some that do not."""
    monkeypatch.setattr(FakeFleet, "begins_puts", request.param == "puts begun at once")

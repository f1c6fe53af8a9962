"""The suite counts itself."""

from __future__ import annotations

import os

import pytest

from tests.system.posix.checks import CHECKS

WANTED_ON_THE_MOUNT = 2_000


def test_the_suite_is_as_large_as_it_says(request: pytest.FixtureRequest) -> None:
    """At least 2,000 checks were executed on the mount, if all of the package was run."""
    here = request.path.parent
    run = {item.path for item in request.session.items}
    if os.geteuid() != 0 or not set(here.glob("test_*.py")) <= run:
        pytest.skip("only a part was run")
    assert CHECKS.counts["mount"] >= WANTED_ON_THE_MOUNT, CHECKS.counts

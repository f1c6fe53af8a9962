"""Every arithmetic that this machine can run, as a fixture."""

from __future__ import annotations

import pytest

from rainfs.erasure.arithmetic import Arithmetic
from rainfs.erasure.fallback import PythonArithmetic
from rainfs.erasure.kernel import KernelArithmetic, running_variants

ARITHMETICS: list[Arithmetic] = [
    *(KernelArithmetic(variant) for variant in running_variants()),
    PythonArithmetic(),
]


@pytest.fixture(params=ARITHMETICS, ids=lambda arithmetic: arithmetic.name, scope="session")
def arithmetic(request: pytest.FixtureRequest) -> Arithmetic:
    chosen: Arithmetic = request.param
    return chosen

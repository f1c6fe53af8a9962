"""A stripe's standing follows from where its shards are and who answers."""

from __future__ import annotations

import pytest

from rainfs.care.exposure import Exposure, Standing, judge, survey
from rainfs.model import Code, NodeNumber, Placement, mirror, reed_solomon
from tests.unit.care.world import World


def placement(*nodes: int) -> Placement:
    return Placement(tuple(NodeNumber(node) for node in nodes))


@pytest.mark.parametrize(
    ("code", "nodes", "present", "standing"),
    [
        (reed_solomon(4, 2), (1, 2, 3, 4, 5, 6), {1, 2, 3, 4, 5, 6}, Standing.HEALTHY),
        (reed_solomon(4, 2), (1, 2, 3, 4, 5, 6), {3, 4, 5, 6}, Standing.DEGRADED),
        (reed_solomon(4, 2), (1, 2, 3, 4, 5, 6), {4, 5, 6}, Standing.LOST),
        (reed_solomon(2, 2), (1, 2, 3, 4), {1, 2, 3, 4}, Standing.HEALTHY),
        (reed_solomon(4, 2), (1, 2, 3, 4, 5, 0), {0, 1, 2, 3, 4, 5}, Standing.DEGRADED),
        (mirror(3), (1, 2, 3), {3}, Standing.DEGRADED),
        (mirror(3), (1, 2, 3), set(), Standing.LOST),
        (reed_solomon(1, 0), (1,), {1}, Standing.HEALTHY),
    ],
)
def test_a_stripe_is_judged_by_the_shards_that_answer(
    code: Code, nodes: tuple[int, ...], present: set[int], standing: Standing
) -> None:
    assert judge(code, placement(*nodes), {NodeNumber(n) for n in present}) is standing


async def test_the_survey_counts_every_stripe() -> None:
    world = await World.make()
    for number in range(3):
        await world.write_file(b"%d" % number)
    everyone = {NodeNumber(1), NodeNumber(2), NodeNumber(3)}
    assert await survey(world.engine, everyone) == Exposure(healthy=3, degraded=0, lost=0)
    assert await survey(world.engine, {NodeNumber(1), NodeNumber(3)}) == Exposure(0, 3, 0)
    assert await survey(world.engine, {NodeNumber(1)}) == Exposure(0, 0, 3)

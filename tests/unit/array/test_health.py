"""States of nodes."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from rainfs.array.latency import SMALL_GET_FLOOR_S, Call, Latency, late_after_s
from rainfs.model import Node, NodeNumber, NodeState, NodeUuid, VolumeId
from tests.fakes.backend import FakeFleet
from tests.unit.array.rig import VOLUME, Rig, content, layout_of, node_rows, open_rig

KIB8 = 8 * 1024


def states(rig: Rig) -> list[str]:
    return [str(status.state) for status in rig.array.health()]


async def test_nodes_are_up_after_the_start(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        assert states(rig) == ["up"] * 6
        assert all(status.health is not None for status in rig.array.health())


async def test_a_silent_node_is_suspect_within_seconds_then_down_then_up_again(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        rig.fleet[0].frozen = True
        await trio.sleep(4)
        assert states(rig)[0] == "suspect"
        await trio.sleep(8)
        assert states(rig) == ["down"] + ["up"] * 5
        rig.fleet[0].frozen = False
        await trio.sleep(3)
        assert states(rig) == ["up"] * 6


async def test_a_failed_data_call_makes_a_node_suspect_at_once(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        view = await rig.write(rig.pieces([KIB8] * 8), layout_of())
        rig.fleet[0].dead = True
        await rig.read_back(view)
        await rig.write(rig.pieces([KIB8] * 8), layout_of())
        assert states(rig)[0] == "suspect"


async def test_a_start_without_answers_ends_all_the_same(autojump_clock: MockClock) -> None:
    fleet = FakeFleet(2, volume=VOLUME)
    for node in fleet.nodes:
        node.frozen = True
    started = trio.current_time()
    async with open_rig(fleet=fleet) as rig:
        assert trio.current_time() - started < 2
        assert states(rig) == ["suspect"] * 2
        await rig.settle()
        assert states(rig) == ["down"] * 2


async def test_another_node_at_the_address_is_down(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        rig.fleet[0].reject_as(uuid=NodeUuid(b"another node 123"))
        rig.fleet[1].reject_as(volume=VolumeId(b"another volume 1"))
        await trio.sleep(3)
        assert states(rig) == ["down", "down", "up", "up", "up", "up"]


async def test_a_late_health_answer_counts_less_than_data_that_flows(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        for node in rig.fleet.nodes:
            node.delay_s["health"] = 3.0
        for _ in range(20):
            await rig.write(rig.pieces([KIB8] * 8), layout_of())
            await trio.sleep(0.5)
        assert states(rig) == ["up"] * 6


async def test_a_draining_node_gets_nothing_new_and_still_serves(
    autojump_clock: MockClock,
) -> None:
    async with open_rig(7) as rig:
        pieces = rig.pieces([KIB8] * 8)
        view = await rig.write(pieces, layout_of())
        rows = node_rows(rig.fleet)
        row = rows[0]
        rows[0] = Node(row.number, row.uuid, row.name, row.url, row.labels, draining=True)
        await rig.array.set_nodes(rows)
        assert states(rig)[0] == "draining"
        for _ in range(5):
            assert 1 not in (await rig.write(pieces, layout_of())).placement.nodes
        assert await rig.read_back(view) == content(pieces)


async def test_members_join_and_leave_online(autojump_clock: MockClock) -> None:
    async with open_rig(7) as rig:
        pieces = rig.pieces([KIB8] * 8)
        rows = node_rows(rig.fleet)
        await rig.array.set_nodes(rows[:5])
        view = await rig.write(pieces, layout_of())
        assert view.stripe.code.n == 5
        await rig.array.set_nodes(rows)
        await trio.sleep(1)
        assert states(rig) == ["up"] * 7
        assert (await rig.write(pieces, layout_of())).stripe.code.n == 6
        assert rig.array.backend(NodeNumber(7)) is not None
        assert rig.array.backend(NodeNumber(8)) is None
        assert await rig.read_back(view) == content(pieces)


async def test_a_node_that_is_late_with_data_is_held_back_longer_each_time(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        rig.fleet[0].delay_s["put"] = 60.0
        started = trio.current_time()
        for _ in range(40):
            await rig.write(rig.pieces([KIB8] * 8), layout_of())
            await trio.sleep(1)
        # Each try costs a write a few seconds: there are only a few of them.
        assert trio.current_time() - started < 80
        assert len(rig.fleet[0].calls("put")) <= 8
        assert rig.array.health()[1].state is NodeState.UP


def test_lateness_is_judged_by_the_median_of_the_nodes() -> None:
    nodes = [Latency() for _ in range(5)]
    for latency in nodes[:4]:
        latency.observe(Call.SMALL_GET, 0.1)
    nodes[4].observe(Call.SMALL_GET, 100.0)
    limits = late_after_s(nodes)
    assert abs(limits[Call.SMALL_GET] - 0.3) < 1e-9
    assert late_after_s([])[Call.SMALL_GET] == SMALL_GET_FLOOR_S


async def test_a_report_on_its_way_never_hides_puts_that_ended_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        for node in rig.fleet.nodes:
            node.answer_delay_s["health"] = 0.7
        for _ in range(100):
            await rig.write(rig.pieces([KIB8] * 8), layout_of())
            free = sum(node.capacity_bytes - node.used_bytes for node in rig.fleet.nodes)
            assert rig.array.space(layout_of()).free_bytes <= free * 4 // 6
            await trio.sleep(0.05)
        await trio.sleep(2)
        await rig.array.look()
        assert rig.array.space(layout_of()).free_bytes == free * 4 // 6


async def test_a_look_makes_space_exact_at_once(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        for node in rig.fleet.nodes:
            node.answer_delay_s["put"] = 1.0
        await trio.sleep(0.5)
        await rig.write(rig.pieces([KIB8] * 8), layout_of())
        free = sum(node.capacity_bytes - node.used_bytes for node in rig.fleet.nodes) * 4 // 6
        # The puts are in the reports that came meanwhile, and are taken off once more.
        assert rig.array.space(layout_of()).free_bytes < free
        asked = len(rig.fleet[0].calls("health"))
        await rig.array.look()
        assert rig.array.space(layout_of()).free_bytes == free
        await rig.array.look()
        assert len(rig.fleet[0].calls("health")) == asked + 1


async def test_space_follows_nodes_that_leave_and_return(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        layout = layout_of()
        whole = rig.array.space(layout)
        assert whole.usable_bytes == whole.free_bytes == 4 * rig.fleet[0].capacity_bytes
        for node in rig.fleet.nodes[:2]:
            node.dead = True
        await rig.settle()
        assert rig.array.space(layout).usable_bytes == 2 * rig.fleet[0].capacity_bytes
        for node in rig.fleet.nodes[:2]:
            node.dead = False
        await rig.settle()
        assert rig.array.space(layout) == whole

"""The code and layout that `format` chooses, and what it checks before it changes anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from rainfs.array.backends.file import open_backend
from rainfs.cli import format as format_module
from rainfs.cli.access import opened_volume
from rainfs.cli.format import FormatRequest, choose_code, layout_for, make_volume
from rainfs.errors import AlreadyFormatted, ForeignVolume, InputError, NodeUnavailable
from rainfs.meta.nodes import list_nodes
from rainfs.model import MAX_SHARD_BYTES, Compression, VolumeId, mirror, reed_solomon

MIB = 1 << 20


@pytest.mark.parametrize(
    ("nodes", "given", "code"),
    [
        (6, (None, None, None), reed_solomon(4, 2)),
        (9, (None, None, None), reed_solomon(4, 2)),
        (3, (2, 1, None), reed_solomon(2, 1)),
        (1, (1, 0, None), reed_solomon(1, 0)),
        (3, (None, None, 3), mirror(3)),
    ],
)
def test_the_code_follows_from_options_and_nodes(
    nodes: int, given: tuple[int | None, int | None, int | None], code: object
) -> None:
    assert choose_code(nodes, *given) == code


@pytest.mark.parametrize("given", [(4, 2, None), (None, None, None), (None, None, 6), (0, 1, None)])
def test_a_code_that_the_nodes_cannot_hold_is_refused(
    given: tuple[int | None, int | None, int | None],
) -> None:
    with pytest.raises(InputError):
        choose_code(5, *given)


@pytest.mark.parametrize("k", [1, 4, 16, 17, 100, 250])
def test_a_stripe_of_a_wide_code_fits_one_shard_when_few_nodes_are_left(k: int) -> None:
    layout = layout_for(reed_solomon(k, 2), Compression.LZ4)
    assert layout.block_bytes <= layout.shard_bytes <= MIB
    assert layout.shard_bytes % 4096 == 0
    assert layout.stripe_bytes <= MAX_SHARD_BYTES


def request(root: Path, *names: str, name: str = "v") -> FormatRequest:
    return FormatRequest(
        url=f"sqlite://{root}/meta/rain.db",
        name=name,
        code=reed_solomon(len(names), 0),
        compression=Compression.LZ4,
        backend_urls=tuple(f"file://{root}/{n}?capacity=16777216" for n in names),
    )


async def claim(root: Path, name: str, volume: bytes) -> None:
    async with trio.open_nursery() as nursery:
        url = f"file://{root}/{name}?capacity=16777216"
        backend = open_backend(url, None, deadline_s=10, nursery=nursery)
        await backend.claim(VolumeId(volume))
        await backend.aclose()


async def test_a_volume_is_made_and_not_made_again(tmp_path: Path) -> None:
    made = await make_volume(request(tmp_path, "a", "b"))
    async with opened_volume(f"sqlite://{tmp_path}/meta/rain.db") as (engine, volume):
        assert volume == made
        assert [node.name for node in await list_nodes(engine)] == ["a", "b"]
    assert (tmp_path / "meta" / "rain.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyFormatted):
        await make_volume(request(tmp_path, "a", "b"))


async def test_nothing_is_made_when_one_node_is_foreign(tmp_path: Path) -> None:
    await claim(tmp_path, "b", b"x" * 16)
    with pytest.raises(ForeignVolume, match="/b"):
        await make_volume(request(tmp_path, "a", "b"))
    assert not (tmp_path / "meta").exists()
    await make_volume(request(tmp_path, "a"))


async def test_an_interrupted_format_is_finished_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_one = format_module._claim

    async def claim_all_but_b(url: str, volume: VolumeId) -> None:
        if "/b?" in url:
            raise NodeUnavailable("gone")
        await claim_one(url, volume)

    monkeypatch.setattr(format_module, "_claim", claim_all_but_b)
    with pytest.raises(NodeUnavailable):
        await make_volume(request(tmp_path, "a", "b"))
    monkeypatch.undo()
    with pytest.raises(AlreadyFormatted):
        await make_volume(request(tmp_path, "a", "b", name="other"))
    made = await make_volume(request(tmp_path, "a", "b"))
    async with opened_volume(f"sqlite://{tmp_path}/meta/rain.db") as (_, volume):
        assert volume == made
    with pytest.raises(AlreadyFormatted):
        await make_volume(request(tmp_path, "a", "b"))

"""Which backend a URL opens, and what bad URLs are told."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
import trio

from rainfs.array.backends import registry
from rainfs.array.backends.file import FileBackend
from rainfs.array.backends.rain import RainBackend
from rainfs.array.backends.registry import open_backend
from rainfs.errors import InputError, StorageError, StoreInUse
from rainfs.model import MIB, VolumeId
from tests.fakes.backend import FakeFleet

VOLUME = VolumeId(b"v" * 16)


async def test_the_scheme_chooses(nursery: trio.Nursery, tmp_path: Path) -> None:
    for url, kind in [
        ("rain://127.0.0.1:7401", RainBackend),
        ("rain://[::1]:7401", RainBackend),
        ("rain://node-3.example:7401/", RainBackend),
        (f"file://{tmp_path}/store", FileBackend),
        (f"file://{tmp_path}/store?capacity=1000000", FileBackend),
    ]:
        backend = open_backend(url, VOLUME, deadline_s=1, nursery=nursery)
        assert type(backend) is kind
        assert backend.url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "/var/lib/store",
        "127.0.0.1:7401",
        "ftp://host/path",
        "rain://",
        "rain://host",
        "rain://host:",
        "rain://host:0",
        "rain://host:x",
        "rain://host:70000",
        "rain://:7401",
        "rain://user@host:7401",
        "rain://host:7401/path",
        "rain://host:7401?x=1",
        "rain://[::1:7401",
        "file://",
        "file://relative/dir",
        "file:///dir?capacity=",
        "file:///dir?capacity=-1",
        "file:///dir?capacity=0",
        "file:///dir?capacity=big",
        "file:///dir?other=1",
        "file:///dir#x",
        "file://[x/dir",
    ],
)
async def test_a_bad_url_is_an_input_error_that_names_it(nursery: trio.Nursery, url: str) -> None:
    with pytest.raises(InputError, match=re.escape(repr(url))):
        open_backend(url, VOLUME, deadline_s=1, nursery=nursery)


async def test_other_schemes_plug_in(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = FakeFleet(1, volume=VOLUME)

    class Entry:
        name = "fake"

        @staticmethod
        def load() -> object:
            return fleet.open_backend

    def entries(*, group: str, name: str | None = None) -> list[type[Entry]]:
        assert group == "rainfs.backends"
        return [Entry] if name in (None, "fake") else []

    monkeypatch.setattr(registry, "entry_points", entries)
    backend = open_backend("fake://node-1", VOLUME, deadline_s=1, nursery=nursery)
    assert (await backend.health()).name == "node-1"
    with pytest.raises(InputError, match="fake, file, rain"):
        open_backend("other://x", VOLUME, deadline_s=1, nursery=nursery)


async def test_a_plug_in_that_does_not_load_is_named(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = importlib.metadata.EntryPoint("gone", "rainfs.no_such_module:open", "rainfs.backends")
    monkeypatch.setattr(registry, "entry_points", lambda **_: [entry])
    with pytest.raises(InputError, match="cannot be loaded"):
        open_backend("gone://x", VOLUME, deadline_s=1, nursery=nursery)


async def test_a_directory_in_use_is_an_error_of_each_call(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/store?capacity={8 * MIB}"
    first = open_backend(url, None, deadline_s=5, nursery=nursery)
    await first.claim(VOLUME)
    second = open_backend(url, VOLUME, deadline_s=5, nursery=nursery)
    for _ in range(3):
        with pytest.raises(StoreInUse):
            await second.list(None, 1)
    await first.aclose()
    assert (await second.health()).volume == VOLUME
    assert await second.list(None, 1) == []
    await second.aclose()


async def test_a_directory_that_is_not_there_is_an_error_of_each_call(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    backend = open_backend(f"file://{tmp_path}/none", VOLUME, deadline_s=5, nursery=nursery)
    with pytest.raises((StorageError, InputError)):
        await backend.health()
    await backend.aclose()

"""Sizes read and written as people do."""

from __future__ import annotations

import pytest

from rainfs.cli.sizes import format_size, parse_size
from rainfs.errors import InputError


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1K", 1 << 10),
        ("100G", 100 << 30),
        ("1.5T", 3 << 39),
        ("512MiB", 512 << 20),
        ("2GB", 2_000_000_000),
        ("1p", 1 << 50),
        (" 7 m ", 7 << 20),
    ],
)
def test_a_size_is_read(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "1e9", "1,5G", "9999999P", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1536, "1.5 KiB"),
        (100 << 30, "100 GiB"),
        (1000 << 30, "1.0 TiB"),
        (3 << 60, "3072.0 PiB"),
    ],
)
def test_a_size_is_written_with_three_figures(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text

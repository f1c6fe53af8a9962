"""Sizes as people write and read them: `100G`, `1.5T`, `512MiB`, `4096`.

Owns both directions.  Units are binary (1K = 1024 bytes) unless written as kB, MB, GB, TB, PB.
"""

from __future__ import annotations

import re
from decimal import Decimal

import click

from rainfs.errors import InputError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTP])(i?B)?|B)?", re.IGNORECASE)
_UNITS = "KMGTP"
MAX_SIZE_BYTES = 1 << 62


def parse_size(text: str) -> int:
    """Return the bytes that `text` names.  Raises: InputError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InputError(f"not a size: {text!r} (write for example 500M, 100G or 1.5T)")
    number, unit, suffix = found.groups()
    base = 1000 if (suffix or "").upper() == "B" else 1024
    power = _UNITS.index(unit.upper()) + 1 if unit else 0
    nbytes = int(Decimal(number) * base**power)
    if nbytes > MAX_SIZE_BYTES:
        raise InputError(f"size too large: {text!r}")
    return nbytes


def format_size(nbytes: int) -> str:
    """Return `nbytes` as three significant figures and a binary unit."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            digits = 0 if unit == "B" or value >= 100 else 1
            return f"{value:.{digits}f} {unit}"
        value /= 1024
    return f"{value:.1f} PiB"


class SizeType(click.ParamType[int]):
    """A click option type for sizes."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return bytes; a bad size is a usage error."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


SIZE = SizeType()

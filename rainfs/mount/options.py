"""Mount options: from `-o a,b=c` to values.

Owns their names, defaults and limits.  OPTIONS.md beside this file describes them for users.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rainfs.errors import InputError
from rainfs.model import MIB

MIN_TIMEOUT_S, MAX_TIMEOUT_S = 1.0, 3600.0
MIN_DIRTY_MIB, MAX_DIRTY_MIB = 16, 1 << 16
MIN_CACHE_MIB, MAX_CACHE_MIB = 8, 1 << 16
MIN_COMPACT_MBPS, MAX_COMPACT_MBPS = 0, 1 << 16
MIN_COMPACT_BELOW, MAX_COMPACT_BELOW = 1, 90

KERNEL_FLAGS = ("nodev", "nosuid", "noexec", "dev", "suid", "exec")
"""Handed to the kernel as they are."""

_IGNORED = frozenset({"rw", "defaults", "_netdev", "auto", "noauto", "user", "nofail"})
"""What mount(8) and fstab add; it has no meaning here."""

_VALUES = frozenset({"timeout", "dirty_mib", "cache_mib", "compact_mbps", "compact_below"})


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What `-o` may say."""

    writeback: bool = False
    noxattr: bool = False
    allow_other: bool = False
    read_only: bool = False
    noatime: bool = False
    timeout_s: float = 10.0
    dirty_bytes: int = 256 * MIB
    cache_bytes: int = 128 * MIB
    compact_bytes_per_s: int = 32 * MIB
    compact_below: float = 0.5
    kernel_flags: tuple[str, ...] = ()


def parse_options(given: Sequence[str]) -> MountOptions:
    """Parse the values of all `-o`.  Raises: InputError for what is unknown or out of range."""
    options = MountOptions(allow_other=os.geteuid() == 0)
    for word in (word for text in given for word in text.split(",")):
        name, equals, value = word.partition("=")
        if not word or name in _IGNORED or name.startswith("x-"):
            continue
        if name in _VALUES:
            options = _with_value(options, name, value)
        elif equals:
            raise InputError(f"mount option {name!r} takes no value, or is unknown")
        elif name in KERNEL_FLAGS:
            options = replace(options, kernel_flags=(*options.kernel_flags, name))
        else:
            options = _with_flag(options, name)
    return options


def _with_flag(options: MountOptions, name: str) -> MountOptions:
    if name == "writeback":
        return replace(options, writeback=True)
    if name == "noxattr":
        return replace(options, noxattr=True)
    if name == "allow_other":
        return replace(options, allow_other=True)
    if name == "noallow_other":
        return replace(options, allow_other=False)
    if name == "ro":
        return replace(options, read_only=True)
    if name == "noatime":
        return replace(options, noatime=True)
    raise InputError(f"unknown mount option {name!r}")


def _with_value(options: MountOptions, name: str, value: str) -> MountOptions:
    if name == "timeout":
        return replace(options, timeout_s=_number(name, value, MIN_TIMEOUT_S, MAX_TIMEOUT_S))
    if name == "dirty_mib":
        number = _number(name, value, MIN_DIRTY_MIB, MAX_DIRTY_MIB)
        return replace(options, dirty_bytes=int(number) * MIB)
    if name == "compact_mbps":
        number = _number(name, value, MIN_COMPACT_MBPS, MAX_COMPACT_MBPS)
        return replace(options, compact_bytes_per_s=int(number * MIB))
    if name == "compact_below":
        number = _number(name, value, MIN_COMPACT_BELOW, MAX_COMPACT_BELOW)
        return replace(options, compact_below=number / 100)
    number = _number(name, value, MIN_CACHE_MIB, MAX_CACHE_MIB)
    return replace(options, cache_bytes=int(number) * MIB)


def _number(name: str, value: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"mount option {name}={value!r}: not a number") from None
    if not low <= number <= high:
        raise InputError(f"mount option {name}={value}: must be from {low:g} to {high:g}")
    return number

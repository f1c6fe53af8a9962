"""Which backend serves a URL: by scheme, through the entry-point group `rainfs.backends`.

Owns the look-up.  Invariant: the two backends that come with rainfs work whether or not it is
installed, and no plug-in takes their schemes.
"""

from __future__ import annotations

import re
from importlib.metadata import entry_points

import trio

from rainfs.array.backend import Backend, BackendFactory
from rainfs.array.backends import file, rain
from rainfs.errors import InputError
from rainfs.model import VolumeId

GROUP = "rainfs.backends"

BUILT_IN: dict[str, BackendFactory] = {
    "rain": rain.open_backend,
    "file": file.open_backend,
}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")


def _factory(url: str) -> BackendFactory:
    match = _SCHEME.match(url)
    if match is None:
        raise InputError(f"{url!r} is not a backend URL, such as rain://127.0.0.1:7401")
    scheme = match[1]
    if (built_in := BUILT_IN.get(scheme)) is not None:
        return built_in
    for entry in entry_points(group=GROUP, name=scheme):
        try:
            factory: BackendFactory = entry.load()
        except Exception as error:
            raise InputError(f"{url!r}: backend {scheme!r} cannot be loaded: {error}") from error
        return factory
    known = sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})
    raise InputError(f"{url!r}: unknown backend {scheme!r}; there are: {', '.join(known)}")


def open_backend(
    url: str, volume: VolumeId | None, *, deadline_s: float, nursery: trio.Nursery
) -> Backend:
    """Return a backend for `url`; it connects lazily, and its readers run in `nursery`.

    `volume` is None only for `health` and `claim`.
    Raises: InputError for a bad URL or an unknown scheme.
    """
    return _factory(url)(url, volume, deadline_s=deadline_s, nursery=nursery)
